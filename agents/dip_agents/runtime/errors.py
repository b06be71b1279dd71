"""Errors of any kind of training, and errors as text."""

from __future__ import annotations

from dip_env.errors import DipError


class NonFiniteUpdateError(DipError, ArithmeticError):
    """A loss or gradient is NaN or infinite; the weights are those before the update."""


class CheckpointError(DipError, ValueError):
    """A file of a run is missing, damaged or belongs to another run; the message names it."""


class StorageError(DipError, OSError):
    """A file of a run cannot be written, as on a full disk; the message names the folder."""


def error_line(error: BaseException) -> str:
    """Return the message of an error and its notes in one line, for the terminal."""
    return "; ".join([str(error), *getattr(error, "__notes__", [])])
