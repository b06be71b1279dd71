"""TRL's GRPOTrainer over an episode: tools, or looks and answer in a single message."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
