"""Memory that a process holds and no longer uses; independent of what it was used for.

Beside tensors a process holds what libraries keep behind them: freed blocks in glibc's heap, and
oneDNN's compiled kernels.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

KEPT_KERNELS = {"LRU_CACHE_CAPACITY": 16, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": 128}
"""Variables that torch's own cache and that of oneDNN are limited by."""


def trim_memory() -> None:
    """Give the memory of freed tensors back to the system, where the C library can (glibc).

    Steps of training free tensors of ever other sizes. glibc keeps the holes between what lives on,
    and a run grew from step to step though it held no more tensors. Takes some milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def limit_kernel_cache() -> None:
    """Let torch and oneDNN keep few compiled kernels, unless the environment sets how many.

    Both keep 1,024 by default: one for every shape of a matrix product on a CPU, with half a
    megabyte each. Packed batches have another number of tokens every time, so most are never used
    again (measured: 300 MB less, no slower). Works until the first product of a process.
    """
    for name, count in KEPT_KERNELS.items():
        # oneDNN reads its former name too.
        if name.replace("ONEDNN", "DNNL") not in os.environ:
            os.environ.setdefault(name, str(count))


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
