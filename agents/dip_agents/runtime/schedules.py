"""Learning-rate schedules as pure functions of the step, so that a resumed run agrees."""

from __future__ import annotations

import math


def warmup_constant(step: int, peak: float, warmup_steps: int) -> float:
    """Return a rate that rises linearly from 0 and then stays.

    Args:
        step: from 1.
        peak: the rate after the warm-up.
        warmup_steps: steps of the rise.

    Returns:
        A number in (0, peak].
    """
    return peak * step / warmup_steps if step <= warmup_steps else peak


def warmup_cosine(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Return a rate that rises linearly and then follows a cosine.

    The cosine would reach 0 one step after the last, which therefore still learns.

    Args:
        step: from 1.
        peak: the rate after the warm-up.
        warmup_steps: steps of the rise.
        steps: of the run.

    Returns:
        A number in (0, peak].
    """
    if step <= warmup_steps:
        return warmup_constant(step, peak, warmup_steps)
    done = (step - warmup_steps - 1) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def warmup_stable_decay(
    step: int, peak: float, warmup_steps: int, decay_steps: int, steps: int
) -> float:
    """Return a rate that rises linearly, stays, and falls linearly.

    Source: Hu et al. 2024 (arXiv 2404.06395), warm-up, stable, decay.

    Args:
        step: from 1.
        peak: the rate between rise and fall.
        warmup_steps: steps of the rise.
        decay_steps: steps of the fall, which would reach 0 one step after the last.
        steps: of the run.

    Returns:
        A number in (0, peak].
    """
    rise = step / max(1, warmup_steps)
    fall = (steps + 1 - step) / (decay_steps + 1)
    return peak * min(1.0, rise, fall)
