"""The random states of a process, captured and restored as plain values."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed python, numpy's global generator, torch and all CUDA devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Capture the states of python, numpy's global generator, torch and the current CUDA device.

    Of the current device only: a process of several computes on its own, and asking the others
    would take memory on each of them.

    Returns:
        Plain values and CPU tensors only, so that a file of it loads without unpickling code.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            np.asarray(keys).tolist(),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def check_rng_state(state: Mapping[str, Any]) -> None:
    """Check that ``set_rng_state`` can restore a state here; nothing changes.

    Args:
        state: from ``rng_state``, also after a round trip through a file.

    Raises:
        ValueError: for a state with CUDA where there is none, or where its generator is another,
            and for what is no such state.
    """
    before = rng_state()
    try:
        _restore_cpu(state)  # whatever a generator refuses, it refuses now
        devices = list(state["cuda"])
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"random state: expected one of rng_state, got: {error!r}") from error
    finally:
        _restore_cpu(before)
    if not devices:
        return
    if not torch.cuda.is_available():
        raise ValueError("random state: expected a CUDA device, got none")
    here, there = torch.cuda.get_rng_state().shape, state["cuda"][0].shape
    if here != there:
        raise ValueError(
            f"random state: expected {tuple(here)} bytes for this CUDA device, got {tuple(there)}"
        )


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``rng_state`` captured.

    Args:
        state: from ``rng_state``, also after a round trip through a file.

    Raises:
        ValueError: for a state that ``check_rng_state`` refuses; nothing is restored then.
    """
    check_rng_state(state)
    _restore_cpu(state)
    if state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0])


def _restore_cpu(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
