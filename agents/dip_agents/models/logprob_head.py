"""From hidden states to logprobs over the tokens that may be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dip_agents.models.chunked_logprobs import linear_weight, tiled_logprobs
from dip_agents.models.dense_logprobs import dense_logprobs
from dip_agents.models.precision import autocast_context
from dip_agents.tokens.banned import ban_mask

# Up to so many logits their probabilities are kept (32 MB in bfloat16): on one CPU core that took
# 0.5 to 0.8 of the time of tiles up to here, and 0.7 to 1.4 above.
DENSE_LIMIT = 2**24


class LogprobHead:
    """The output layer of a language model without the tokens that are banned.

    Args:
        core: a transformers model with its output layer in ``lm_head``, which is read at every
            call, since an adapter or FSDP may replace it.
        banned: ids that must not be sampled.
        rows: V, rows of the output layer.
        autocast: dtype for matrix products, or None for the weights' own.
    """

    def __init__(
        self, core: Any, banned: Sequence[int], rows: int, autocast: torch.dtype | None
    ) -> None:
        """Make the mask once."""
        self.core = core
        self.autocast = autocast
        self._ban = ban_mask(banned, rows)

    def ban(self, device: torch.device) -> Tensor:
        """Return 0 for tokens that may be sampled and -inf for the others, float32 (V,)."""
        return self._ban.to(device)

    def weight(self) -> tuple[Tensor, Tensor | None] | None:
        """Return weight (V, d) and bias (V,) of the output layer; None when it is not plain."""
        return linear_weight(self.core.lm_head)

    def logits(self, states: Tensor) -> Tensor:
        """Return float32 logits (N, V) of last hidden states (N, d), bans not yet applied."""
        with autocast_context(self.autocast, states.device):
            out: Tensor = self.core.lm_head(states)
        return out.float()

    def log_softmax(self, states: Tensor, temperature: float) -> Tensor:
        """Return fp32 log-probabilities (N, V) over the allowed tokens.

        Args:
            states: last hidden states (N, d).
            temperature: divides the logits; sampler and trainer use the same one.
        """
        logits = self.logits(states)
        return torch.log_softmax(logits / temperature + self.ban(logits.device), dim=-1)

    def scores(self, states: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return logprob and entropy (N,) of the tokens drawn from these states, in float32.

        Args:
            states: last hidden states (N, d).
            ids: tokens (N,).
            temperature: the one they were sampled at.
        """
        if (plain := self.weight()) is not None:
            weight, bias = plain
            dense = len(states) * len(self._ban) <= DENSE_LIMIT
            with autocast_context(self.autocast, states.device):
                return (dense_logprobs if dense else tiled_logprobs)(
                    states,
                    weight,
                    ids,
                    bias=bias,
                    banned=self.ban(states.device) != 0,
                    temperature=temperature,
                )
        logp = self.log_softmax(states, temperature)
        entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)
        return logp.gather(1, ids[:, None])[:, 0], entropy
