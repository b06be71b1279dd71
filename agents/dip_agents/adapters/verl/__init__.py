"""verl's agent loop over an episode, and the rows of its data set."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
