"""Advantages of single regions: what each adds to the look term, beside what others add there.

Axes: P scenes, G rollouts of one scene, R regions of one rollout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def region_advantages(
    gains: Sequence[Sequence[Sequence[float]]], weight: float = 1.0, eps: float = 1e-4
) -> list[list[list[float]]]:
    """Compare what each region adds with what the regions of the same number add.

    ``A[i,k] = w (g[i,k] - mean_j g[j,k]) / (std + eps)`` with the weight w, the gain g[i,k] of
    region k of rollout i, the mean over the siblings j with a region k, and the unbiased deviation
    (ddof = 1) of all differences of the batch. A gain is what a region adds to the look term beside
    the regions before it (``dip_env.rewards.look_gains``), and the only thing its tokens are
    credited with: not what other regions find, and not one sampled answer, which is several times
    as noisy.

    What a region leaves to later ones is not credited either: this is the gradient of greedy
    choices, not of the look term of all regions. The share of ambiguity that regions cover is
    submodular, so that the best greedy choice of R regions covers at least 1 - (1 - 1/R)^R of what
    the best R cover (Nemhauser, Wolsey and Fisher 1978). Source: ours.

    Args:
        gains: [scene][member][region].
        weight: w.
        eps: added to the standard deviation, in units of the look term.

    Returns:
        [scene][member][region]; 0 for a region whose number no sibling has. The advantages of one
        number in one group add up to 0.
    """
    centred = [_to_siblings(group) for group in gains]
    differences = [value for group in centred for member in group for value in member]
    deviation = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    scale = weight / (deviation + eps)
    return [[[scale * value for value in member] for member in group] for group in centred]


def _to_siblings(group: Sequence[Sequence[float]]) -> list[list[float]]:
    """Subtract from each gain the mean of those of the same number."""
    most = max(map(len, group), default=0)
    means = [np.mean([member[k] for member in group if len(member) > k]) for k in range(most)]
    return [
        [gain - float(mean) for gain, mean in zip(member, means, strict=False)] for member in group
    ]
