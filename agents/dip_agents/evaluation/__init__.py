"""Evaluate policies on held-out scenes, compare evaluations, and audit rewards."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
