"""The environment beside an event loop, in a single thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
# Episodes must not block the requests of other rollouts, and a source need not be thread-safe.
_ENVIRONMENT = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dip_env")


async def run_in_env_thread(work: Callable[..., T], *given: Any) -> T:
    """Run work of the environment while the event loop continues; one call at a time.

    Args:
        work: makes a scene, encodes its images, steps or scores.
        *given: its arguments.

    Returns:
        Its result; its exceptions are raised.
    """
    return await asyncio.get_running_loop().run_in_executor(_ENVIRONMENT, work, *given)
