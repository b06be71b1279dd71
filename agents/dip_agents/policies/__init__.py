"""Policies: scripted ones, the oracle, and language models behind an engine or a server."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
