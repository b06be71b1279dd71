"""Larger studies, each a package run with ``python -m``."""
