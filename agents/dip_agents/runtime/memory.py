"""Memory that a process holds and no longer uses; independent of what it was used for."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def trim_memory() -> None:
    """Give the memory of freed tensors back to the system, where the C library can (glibc).

    Steps of training free tensors of ever other sizes. glibc keeps the holes between what lives on,
    and a run grew from step to step though it held no more tensors. Takes some milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
