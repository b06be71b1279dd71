"""Where the environment's replies are computed while an engine decodes; independent of engines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch


class ImmediateExecutor(Executor):
    """Runs each call at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a future that is done; it holds what the call returned or raised."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # raised again by ``result``, as an executor does
            future.set_exception(error)
        return future


def environment_executor(device: torch.device) -> Executor:
    """Return what computes the replies of the environment, one at a time.

    A thread beside the decoding, unless that runs on the CPU itself: there the two would wait for
    each other at every product of the model (with two crops a turn, rollouts took 8 % longer).

    Args:
        device: the one that decodes.
    """
    if device.type == "cpu":
        return ImmediateExecutor()
    return ThreadPoolExecutor(1, "environment")
