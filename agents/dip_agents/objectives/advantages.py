"""Group-relative advantages: how much better a rollout is rewarded than its siblings.

Axes: P scenes, G rollouts of one scene, K reward terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dip_agents.objectives.choices import AdvantageKind
from dip_env.errors import ConfigError

SAME_REWARD = 1e-6
"""Rewards of a group that spread less than this are equal: the rest is float rounding."""


@dataclass(frozen=True, eq=False)
class Advantages:
    """The advantages of one batch, and which of its groups are informative.

    Args:
        values: float32 (P, G); exactly 0 for every rollout of a group that is not informative.
        informative: bool (P,), False where no rollout of the group has an advantage over another.
        turns: advantage of every turn, [scene][member][turn], where turns have their own
            (``turns.py``); ``values`` then hold the part of the episodes, or of look and answer
            together (``branches.py``).
        regions: advantage of the tokens of every region, [scene][member][region], where regions
            have their own (``regions.py``); all other tokens have that of their turn.
    """

    values: Tensor
    informative: Tensor
    turns: Sequence[Sequence[Sequence[float]]] | None = None
    regions: Sequence[Sequence[Sequence[float]]] | None = None


ScaleFunction = Callable[[Tensor, Tensor, float], Tensor]
"""(differences (P, G), rewards (P, G), eps) -> advantages (P, G), linear in the differences."""

SCALES: dict[str, ScaleFunction] = {}
"""The registered advantages by name."""


def register_advantage(name: str) -> Callable[[ScaleFunction], ScaleFunction]:
    """Return a decorator that makes a scaling of reward differences a kind of advantage.

    Args:
        name: of the advantage.

    Returns:
        The decorator; it returns the function as it is.
    """

    def register(function: ScaleFunction) -> ScaleFunction:
        SCALES[name] = function
        return function

    return register


@register_advantage("dr_grpo")
def _unscaled(differences: Tensor, rewards: Tensor, eps: float) -> Tensor:
    return differences


@register_advantage("grpo")
@register_advantage("gigpo")
def _by_group_deviation(differences: Tensor, rewards: Tensor, eps: float) -> Tensor:
    return differences / (deviation(rewards, dim=1) + eps)


@register_advantage("batch_std")
def _by_batch_deviation(differences: Tensor, rewards: Tensor, eps: float) -> Tensor:
    return differences / (deviation(rewards) + eps)


@register_advantage("rloo")
def _leave_one_out(differences: Tensor, rewards: Tensor, eps: float) -> Tensor:
    members = rewards.shape[1]
    return differences * (members / max(members - 1, 1))


def group_advantages(
    rewards_P_G: Tensor,
    kind: AdvantageKind = "batch_std",
    eps: float = 1e-4,
    terms_P_G_K: Tensor | None = None,
    term_weights: Sequence[float] | Tensor | None = None,
) -> Advantages:
    """Compare every reward with those of its group.

    ========= ================================================ ===========================
    kind      advantage                                        source
    ========= ================================================ ===========================
    grpo      (R_i - mean_group) / (std_group + eps)           DeepSeekMath, 2402.03300
    dr_grpo   R_i - mean_group                                 Dr. GRPO, 2503.20783
    batch_std (R_i - mean_group) / (std_batch + eps)           Lite-PPO, 2508.08221
    rloo      R_i - mean of the others                         RLOO, 2402.14740
              = G / (G - 1) (R_i - mean_group)
    gdpo      (S_i - mean_batch S) / (std_batch S + eps), with GDPO, 2601.05242
              S_i = sum_k w_k (r_ik - mean_group r_k)
              / (std_group r_k + eps)
    gigpo     as grpo; ``compute_advantages`` adds the turns   GiGPO, 2505.10978
    ========= ================================================ ===========================

    All standard deviations are unbiased (ddof = 1), as TRL and verl compute them; those of the
    batch are over all P*G rollouts. Scaling by the group's own deviation makes scenes that are
    almost always or almost never solved count most, which dr_grpo, batch_std and rloo avoid.
    gdpo compares every term by itself, so that one that varies much does not hide another; a
    group may then be informative although its total rewards are equal.

    Args:
        rewards_P_G: rewards (P, G) of any float dtype.
        kind: one of the table.
        eps: added to the standard deviation, in units of reward.
        terms_P_G_K: unweighted reward terms (P, G, K); gdpo needs them.
        term_weights: weight of each term, K numbers; gdpo needs them.

    Returns:
        The advantages and the mask of informative groups; each group's advantages sum to 0.

    Raises:
        ValueError: for another shape or a number that is not finite.
        ConfigError: for an unknown kind, or gdpo without terms.
    """
    if rewards_P_G.ndim != 2 or rewards_P_G.numel() == 0:
        raise ValueError(f"rewards: expected shape (P, G), got {tuple(rewards_P_G.shape)}")
    if not bool(torch.isfinite(rewards_P_G).all()):
        raise ValueError(f"rewards: expected finite numbers, got {rewards_P_G.tolist()}")
    rewards = rewards_P_G.double()
    if kind != "gdpo":
        informative = spread(rewards)
        values = _scaled(centred(rewards), rewards, kind, eps)
    else:
        terms, weights = _checked_terms(rewards, terms_P_G_K, term_weights)
        informative = (spread(terms) & (weights > 0)).any(dim=1)
        scores = _compared_alone(terms, eps) @ weights
        # The mean over the batch is that of the groups, 0 up to rounding.
        values = (scores - scores.mean()) / (deviation(scores) + eps)
    return Advantages(torch.where(informative[:, None], values, 0.0).float(), informative)


def term_part(
    terms_P_G_K: Tensor,
    term_weights: Sequence[float] | Tensor,
    term: int,
    kind: AdvantageKind = "batch_std",
    eps: float = 1e-4,
) -> Tensor:
    """Return how much of every advantage comes from one reward term (source: ours).

    Every kind is linear in the terms once its deviations are known, so that the parts of all terms
    add up to the advantages of ``group_advantages``. Terms that differ may cancel to equal rewards;
    the part of such a group is that of its own term all the same.

    Args:
        terms_P_G_K: unweighted reward terms (P, G, K).
        term_weights: weight of each term, K numbers; the rewards are the weighted sums.
        term: which of the K.
        kind: of the advantage; that of ``gigpo`` is the part of the episodes.
        eps: added to the standard deviation, in units of reward.

    Returns:
        float32 (P, G); 0 for groups that are not informative, and where the term itself does not
        differ or the kind has no scale, see ``has_scale``.

    Raises:
        ValueError: as ``group_advantages``.
        ConfigError: as ``group_advantages``.
    """
    weights = torch.as_tensor(term_weights, dtype=torch.float64)
    rewards = terms_P_G_K.double() @ weights
    informative = group_advantages(rewards, kind, eps, terms_P_G_K, weights).informative
    if kind == "gdpo":
        alone = _compared_alone(terms_P_G_K.double(), eps)
        part = alone[..., term] * weights[term] / (deviation(alone @ weights) + eps)
    else:
        own = centred(terms_P_G_K[..., term].double()) * weights[term]
        part = _scaled(own, rewards, kind, eps)
        informative = informative | (spread(own) & has_scale(rewards, kind, eps))
    return torch.where(informative[:, None], part, 0.0).float()


def _scaled(differences: Tensor, rewards: Tensor, kind: str, eps: float) -> Tensor:
    """Scale differences (P, G) to the mean of a group as a kind scales those of the rewards."""
    if kind not in SCALES:
        raise ConfigError(f"kind: expected one of {(*SCALES, 'gdpo')}, got {kind!r}")
    return SCALES[kind](differences, rewards, eps)


def has_scale(rewards_P_G: Tensor, kind: str, eps: float = 1e-4) -> Tensor:
    """Return where a kind has something to scale differences by.

    Args:
        rewards_P_G: rewards (P, G).
        kind: a registered one.
        eps: added to the standard deviation, in units of reward.

    Returns:
        bool (P,), False where it divides by little more than ``eps``: without a spread of rewards
        that says how large a difference is, small ones would become large advantages.
    """
    factor = _scaled(torch.ones_like(rewards_P_G), rewards_P_G, kind, eps)[:, 0]
    return torch.isfinite(factor) & (factor * eps < 0.5)


def _compared_alone(terms: Tensor, eps: float) -> Tensor:
    """Compare each term (P, G, K) with that of the siblings; 0 where theirs are all equal."""
    scores = centred(terms) / (deviation(terms, dim=1) + eps)
    return torch.where(spread(terms)[:, None], scores, 0.0)


def spread(values: Tensor) -> Tensor:
    """Return where the siblings along axis 1 differ by more than rounding."""
    return values.amax(dim=1) - values.amin(dim=1) > SAME_REWARD


def centred(values: Tensor) -> Tensor:
    """Subtract the mean along axis 1, the members of a group."""
    return values - values.mean(dim=1, keepdim=True)


def deviation(values: Tensor, dim: int | None = None) -> Tensor:
    """Return the unbiased standard deviation, kept as an axis; that of one number is 0."""
    count = values.numel() if dim is None else values.shape[dim]
    return values.std(dim=dim, correction=1 if count > 1 else 0, keepdim=dim is not None)


def _checked_terms(
    rewards: Tensor, terms: Tensor | None, weights: Sequence[float] | Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return terms (P, G, K) and weights (K,) as float64."""
    if terms is None or weights is None:
        raise ConfigError("terms: expected terms and their weights for gdpo, got none")
    weights = torch.as_tensor(weights, dtype=torch.float64)
    expected = (*rewards.shape, len(weights))
    if tuple(terms.shape) != expected:
        raise ValueError(f"terms: expected shape {expected}, got {tuple(terms.shape)}")
    if not bool(torch.isfinite(terms).all()):
        raise ValueError(f"terms: expected finite numbers, got {terms.tolist()}")
    return terms.double(), weights
