"""Experiments on looking: change one thing about looks, step by step, and report the effect."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
