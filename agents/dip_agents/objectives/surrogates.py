"""The policy-gradient part of the loss, one pure function per variant.

Axes: B rollouts, T tokens. r_t = exp(log pi_t - log old_t) is the ratio to the policy that the
batch started from, A_t the advantage. On the first update of a batch r = 1, and every variant has
the gradient of REINFORCE, ``-A_t grad log pi_t``.

All take ``SurrogateInputs`` and ``Clips`` and return losses per token, to be minimised, and which
tokens they clipped on either side. ``register_loss`` adds a function to ``LOSSES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dip_agents.objectives.choices import CLIPS, Clips
from dip_agents.objectives.importance import MAX_LOG_RATIO


@dataclass(frozen=True, eq=False)
class SurrogateInputs:
    """The tensors of one micro-batch that a surrogate reads; every column is one token.

    Args:
        logprobs: (B, T) of the policy, with gradient.
        old_logprobs: (B, T) of the weights that the batch started from. Pass
            ``logprobs.detach()`` on the first update: the ratio is then exactly 1.
        advantages: (B,), or (B, T) where tokens of one rollout have their own. A surrogate gets
            (B, T).
        mask: bool (B, T), the active tokens.
        behaviour_logprobs: (B, T) of the sampler, or None; a surrogate gets ``old_logprobs`` where
            they are None or NaN.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    behaviour_logprobs: Tensor | None = None

    @cached_property
    def log_ratio(self) -> Tensor:
        """Log of the ratio to the old policy, (B, T), clamped, with gradient."""
        return (self.logprobs - self.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    def prepared(self) -> SurrogateInputs:
        """Return what a surrogate gets: finite outside of the mask, advantages (B, T)."""
        advantages = self.advantages.to(self.logprobs.dtype)
        advantages = advantages[:, None] if advantages.ndim == 1 else advantages
        # Zero outside the mask before exp: a padded -inf would turn into NaN in the backward pass.
        old = torch.where(self.mask, self.old_logprobs, 0.0)
        behaviour = old
        if self.behaviour_logprobs is not None:
            known = self.mask & ~self.behaviour_logprobs.isnan()
            behaviour = torch.where(known, self.behaviour_logprobs, old)
        return SurrogateInputs(
            torch.where(self.mask, self.logprobs, 0.0),
            old,
            advantages.expand_as(self.logprobs),
            self.mask,
            behaviour,
        )


class Surrogate(NamedTuple):
    """Losses of tokens.

    Args:
        losses: (B, T) with gradient.
        clipped_low: bool (B, T), tokens that were clipped because they fell too far.
        clipped_high: bool (B, T), because they rose too far.
    """

    losses: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


SurrogateFunction = Callable[[SurrogateInputs, Clips], Surrogate]

LOSSES: dict[str, SurrogateFunction] = {}
"""The registered losses by name."""


def register_loss(name: str, clips: Clips) -> Callable[[SurrogateFunction], SurrogateFunction]:
    """Return a decorator that makes a surrogate a loss of ``policy_loss``.

    Args:
        name: of the loss.
        clips: its bounds where a call gives none.

    Returns:
        The decorator; it returns the function as it is.
    """

    def register(function: SurrogateFunction) -> SurrogateFunction:
        LOSSES[name], CLIPS[name] = function, clips
        return function

    return register


@register_loss("clipped", clips=CLIPS["clipped"])
def clipped(inputs: SurrogateInputs, clips: Clips) -> Surrogate:
    """Return ``-min(r A, clip(r, 1 - low, 1 + high) A)``.

    With ``dual`` c the loss of a token with A < 0 is at most ``-c A``: the gradient of a bad token
    that has become c times as likely grows no further.

    Source: PPO (1707.06347) for the clip; DAPO (2503.14476) for the higher upper bound; dual-clip
    PPO (1912.09729), c = 3 there.

    Args:
        inputs: of the micro-batch.
        clips: low and high, how far below and above 1 the ratio still has a gradient; dual, c > 1
            or None.

    Returns:
        See ``Surrogate``; tokens that the dual clip bounds count as high.
    """
    return _clip(inputs.log_ratio, inputs.advantages, clips)


def _clip(log_ratio: Tensor, advantages: Tensor, clips: Clips) -> Surrogate:
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1.0 - clips.low, 1.0 + clips.high)
    losses = -torch.minimum(ratio * advantages, bounded * advantages)
    low = (ratio < 1.0 - clips.low) & (advantages < 0)
    high = (ratio > 1.0 + clips.high) & (advantages > 0)
    if clips.dual is not None:
        bad = advantages < 0
        losses = torch.where(bad, torch.minimum(losses, -clips.dual * advantages), losses)
        high = high | (bad & (ratio > clips.dual))
    return Surrogate(losses, low, high)


@register_loss("gspo", clips=CLIPS["gspo"])
def gspo(inputs: SurrogateInputs, clips: Clips) -> Surrogate:
    """Clip the ratio of the whole rollout: ``-min(s_t A, clip(s_t, ...) A)``.

    ``s = exp(mean_t log r_t)`` over the active tokens of the rollout, and in its token form
    ``s_t = sg[s] pi_t / sg[pi_t]`` (sg stops the gradient), so that tokens of one rollout may have
    different advantages. A mean of logs moves little: the source clips at 3e-4 and 4e-4, not at
    0.2, and gives every rollout the same weight (``sequence_mean``).

    Source: GSPO (2507.18071), GSPO-token.

    Args:
        inputs: of the micro-batch.
        clips: low and high, how far below and above 1 s still has a gradient.

    Returns:
        See ``Surrogate``.
    """
    logprobs, mask = inputs.logprobs, inputs.mask
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    mean = inputs.log_ratio.detach().sum(1, keepdim=True) / counts
    # The difference is 0 and only carries the gradient.
    sequence_log_ratio = mean + (logprobs - logprobs.detach())
    return _clip(sequence_log_ratio, inputs.advantages, Clips(clips.low, clips.high))


@register_loss("cispo", clips=CLIPS["cispo"])
def cispo(inputs: SurrogateInputs, clips: Clips) -> Surrogate:
    """Bound the weight of a token, never its gradient: ``-sg[min(r, 1 + high)] A log pi``.

    No token drops out; one that has become much likelier has the weight of the bound. There is no
    lower bound, as in the source; ScaleRL (2510.13786) bounds at 5, so ``high = 4``.

    Source: CISPO, MiniMax-M1 (2506.13585).

    Args:
        inputs: of the micro-batch.
        clips: high, how far above 1 a weight may be.

    Returns:
        See ``Surrogate``; ``clipped_high`` are the bounded weights.
    """
    ratio = inputs.log_ratio.detach().exp()
    losses = -ratio.clamp(max=1.0 + clips.high) * inputs.advantages * inputs.logprobs
    return Surrogate(losses, torch.zeros_like(ratio, dtype=torch.bool), ratio > 1.0 + clips.high)


@register_loss("dppo_tv", clips=CLIPS["dppo_tv"])
def dppo_tv(inputs: SurrogateInputs, clips: Clips) -> Surrogate:
    """Drop tokens by the difference of probabilities, not by their ratio: ``-M r A``.

    M = 0 where A > 0 and ``pi - mu > high``, or A < 0 and ``pi - mu < -low``, else 1, with mu the
    sampler's probability of the token. A rare token may double without moving the distribution,
    although its ratio is large.

    Source: DPPO-Binary-TV (2602.04879), bounds 0.2 in prime-rl.

    Args:
        inputs: of the micro-batch.
        clips: low and high, the largest fall and rise of a probability.

    Returns:
        See ``Surrogate``.
    """
    advantages, behaviour = inputs.advantages, inputs.behaviour_logprobs
    behaviour = inputs.old_logprobs if behaviour is None else behaviour
    moved = inputs.logprobs.detach().exp() - behaviour.exp()
    low = (moved < -clips.low) & (advantages < 0)
    high = (moved > clips.high) & (advantages > 0)
    losses = torch.where(low | high, 0.0, -inputs.log_ratio.exp() * advantages)
    return Surrogate(losses, low, high)
