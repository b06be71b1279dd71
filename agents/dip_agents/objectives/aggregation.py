"""The weights of each rollout's tokens in the loss, from lengths only.

The loss of a batch is ``sum_b w_b sum_t l_bt``. The weights w_b come from counts of the *whole*
batch, over all micro-batches and processes, so that partial sums of loss and gradient add up to
those of the batch, however it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from dip_agents.objectives.choices import AggregationKind
from dip_env.errors import ConfigError


@dataclass(frozen=True)
class Counts:
    """The size of a whole batch over all processes.

    Args:
        rollouts: B, those that go through the model.
        tokens: N, their active tokens.
    """

    rollouts: int
    tokens: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Counts:
        """Count rollouts with these numbers of active tokens."""
        return cls(len(lengths), sum(lengths))


def rollout_weights(
    lengths: Sequence[int],
    counts: Counts,
    kind: AggregationKind = "token_mean",
    constant_length: int = 1024,
) -> Tensor:
    """Return the weight w_b of every token of a rollout with n_b active tokens.

    =============== ============ ==================================================================
    kind            w_b          source
    =============== ============ ==================================================================
    token_mean      1 / N        DAPO, 2503.14476: every token counts the same
    sequence_mean   1 / (B n_b)  DeepSeekMath, 2402.03300; GSPO, 2507.18071: every rollout counts
                                 the same, so the tokens of short ones count more
    constant_length 1 / (B L)    Dr. GRPO, 2503.20783: a sum over tokens, so that no length is
                                 favoured; L only scales it
    =============== ============ ==================================================================

    Args:
        lengths: n_b of these rollouts, which may be a part of the batch.
        counts: B and N of the whole batch.
        kind: one of the table.
        constant_length: L in tokens.

    Returns:
        float32 (B,), each > 0; 0 for a rollout without active tokens.

    Raises:
        ConfigError: for an unknown kind.
    """
    if kind == "token_mean":
        weights = [1.0 / max(counts.tokens, 1)] * len(lengths)
    elif kind == "sequence_mean":
        weights = [1.0 / (counts.rollouts * max(length, 1)) for length in lengths]
    elif kind == "constant_length":
        weights = [1.0 / (counts.rollouts * constant_length)] * len(lengths)
    else:
        raise ConfigError(f"kind: expected one of {get_args(AggregationKind)}, got {kind!r}")
    return torch.tensor(
        [weight if length else 0.0 for weight, length in zip(weights, lengths, strict=True)],
        dtype=torch.float32,
    )
