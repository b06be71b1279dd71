"""The environment beside an event loop: in one thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
# Episodes must not hold up other rollouts' requests, and a source need not bear two readers.
_ENVIRONMENT = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dip_env")


async def run_in_env_thread(work: Callable[..., T], *given: Any) -> T:
    """Let the environment work while the event loop goes on.

    Args:
        work: what to do: make a scene, encode its images, step, score; one at a time.
        *given: its arguments.

    Returns:
        What it returned; what it raised is raised.
    """
    return await asyncio.get_running_loop().run_in_executor(_ENVIRONMENT, work, *given)
