"""Advantages of groups in which several answers follow each look.

Axes: P scenes, L looks of one scene, K answers after each look, G = L K rollouts. The members of a
*branch* share everything up to the end of their look, the *fork*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dip_agents.objectives.advantages import SAME_REWARD, SCALES, has_scale
from dip_agents.objectives.choices import UNBRANCHED
from dip_env.errors import ConfigError


@dataclass(frozen=True, eq=False)
class BranchRewards:
    """What the rollouts of one batch earned, by look and answer.

    Args:
        rewards: (P, L, K) of any float dtype.
        looked: bool (P, L), False where a branch ended without a fork: its members are copies of
            one rollout.
        blank: C, how many answers of each branch, the last ones, see blank crops; below K.
        accuracy: (P, L, K) weighted accuracy term, which is part of the rewards; read where C > 0.

    Raises:
        ValueError: for shapes that do not fit together, a number that is not finite, or a C that
            leaves no answer with crops.
    """

    rewards: Tensor
    looked: Tensor
    blank: int = 0
    accuracy: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the shapes."""
        shape = tuple(self.rewards.shape)
        if len(shape) != 3 or 0 in shape or shape[1] < 2:
            raise ValueError(f"rewards: expected shape (P, L, K) with L >= 2, got {shape}")
        if not bool(torch.isfinite(self.rewards).all()):
            raise ValueError(f"rewards: expected finite numbers, got {self.rewards.tolist()}")
        if tuple(self.looked.shape) != shape[:2]:
            raise ValueError(f"looked: expected {shape[:2]}, got {tuple(self.looked.shape)}")
        if not 0 <= self.blank < shape[2]:
            raise ValueError(f"blank: expected 0 to {shape[2] - 1}, got {self.blank}")
        if self.blank and (self.accuracy is None or tuple(self.accuracy.shape) != shape):
            raise ValueError(f"accuracy: expected shape {shape} with blank answers")

    @property
    def real(self) -> int:
        """K - C, the answers that see their crops."""
        return self.rewards.shape[2] - self.blank


@dataclass(frozen=True, eq=False)
class BranchAdvantages:
    """The advantages of branches.

    Args:
        looks: float64 (P, L), of all tokens up to the fork.
        answers: float64 (P, L, K), of the tokens after it; 0 in branches without a fork.
        informative: bool (P,), False where no token has an advantage, or the kind has no scale.
    """

    looks: Tensor
    answers: Tensor
    informative: Tensor


def branch_advantages(
    found: BranchRewards, kind: str = "batch_std", eps: float = 1e-4
) -> BranchAdvantages:
    """Compare looks with looks, and answers with the other answers to the same look.

    With the reward R[l,k] of answer k after look l, before the scale of the kind:

    - ``A_look[l] = V[l] - mean_(l' != l) V[l']``, the value ``V[l] = mean_k R[l,k]``;
    - ``A_answer[l,k] = R[l,k] - mean_(k' != k) R[l,k']``.

    The value of a look is a mean over K answers, which divides the noise that they add to it by
    sqrt(K); what comes before the fork is sampled once for all of them. At the same G, however,
    there are K times fewer looks, each compared with fewer others, and the gradient becomes
    noisier: raise G with K, and keep L at four or more. (In the enumerated policy of the tests,
    with noise of +-.5 on every reward, the variance of the look's gradient is .025 for 8 looks with
    one answer each, .018 for 8 with two and .042 for 4 with two.)

    Both baselines are independent of the tokens they are subtracted for, up to the look terms of
    other branches, which are measured on the answers of this one. Every look is in the loss K
    times, as often as there are answers to it. With the sum over all G rollouts divided by G, a
    look therefore weighs 1/L and an answer 1/G, which are their shares of samples, and the expected
    gradient is that of the expected reward. A branch without a fork is one sample: its K copies
    have the same A_look and no A_answer.

    With C blank answers in each branch, the value of a look is what its crops bring,
    ``V[l] = mean_real R[l,k] - mean_blank a[l,k]`` with the weighted accuracy term a: the accuracy
    with crops minus that without, and the other terms as they are. The look's expected gradient is
    that of E[V]. Answers are compared with answers that saw as much: real ones with the other real
    ones to the same look, blank ones with the blank ones; where there is one of its sort, with
    those of the other looks. So a blank answer is rewarded for accuracy like any other, and no
    token of an answer gains by a worse one. The tokens up to the fork do gain where blank answers
    get worse; a thought before the look that leads these astray raises V, and the logged accuracy
    of blank answers then falls. The answers' expected gradient is (K-C)/K of that of the real ones'
    reward plus C/K of that of the blank ones'. A branch without a fork has answered without crops:
    its crops bring 0, and its accuracy is compared with that of the blank answers of other looks.

    All differences are multiplied by (G-1)/G, which turns a difference to the mean of the others
    into one to the mean of all, as in a group without branches; each kind then scales them as it
    scales those, by the deviations of all rewards. ``rloo`` takes the factor back: its expected
    gradient is that of the expected reward, that of ``dr_grpo`` (G-1)/G of it.

    Source: ours, from leave-one-out means (RLOO, 2402.14740), values from several continuations of
    one state (VinePPO, 2410.01679) and, for blank answers, counterfactual baselines (COMA,
    1705.08926).

    Args:
        found: what was earned.
        kind: of the advantage, see ``group_advantages``; not ``gdpo`` or ``gigpo``.
        eps: added to the standard deviation, in units of reward.

    Returns:
        The advantages.

    Raises:
        ConfigError: for a kind that compares turns or terms by itself.
    """
    looks = _look_differences(found)
    answers = _answer_differences(found.rewards.double(), found)
    largest = torch.maximum(looks.abs().amax(dim=1), answers.abs().amax(dim=(1, 2)))
    informative = (largest > SAME_REWARD) & _has_scale(found, kind, eps)
    scaled_looks = _scaled(looks[..., None].expand_as(answers), found, kind, eps)[..., 0]
    scaled_answers = _scaled(answers, found, kind, eps)
    return BranchAdvantages(
        torch.where(informative[:, None], scaled_looks, 0.0),
        torch.where(informative[:, None, None], scaled_answers, 0.0),
        informative,
    )


def answer_part(
    term_P_L_K: Tensor, found: BranchRewards, kind: str = "batch_std", eps: float = 1e-4
) -> Tensor:
    """Return how much of every ``A_answer`` comes from one weighted term (source: ours).

    Args:
        term_P_L_K: the term times its weight, (P, L, K).
        found: what was earned in total.
        kind: of the advantage.
        eps: added to the standard deviation, in units of reward.

    Returns:
        (P, L, K); 0 where the term does not tell answers apart.

    Raises:
        ConfigError: as ``branch_advantages``.
    """
    differences = _answer_differences(term_P_L_K.double(), found)
    differ = (differences.abs().amax(dim=(1, 2)) > SAME_REWARD) & _has_scale(found, kind, eps)
    return torch.where(differ[:, None, None], _scaled(differences, found, kind, eps), 0.0)


def _look_differences(found: BranchRewards) -> Tensor:
    """Return (P, L) differences between the values of looks."""
    rewards = found.rewards.double()
    value = rewards[..., : found.real].mean(dim=2)
    if not found.blank or found.accuracy is None:
        return _to_others(value, dim=1)
    blank = found.accuracy.double()[..., found.real :].mean(dim=2)
    direct = torch.where(found.looked, 0.0, _to_others(blank, dim=1))
    return _to_others(value - blank, dim=1) + direct


def _answer_differences(values: Tensor, found: BranchRewards) -> Tensor:
    """Return (P, L, K) differences between answers that saw as much; 0 without a fork."""
    sorts = [values[..., : found.real], values[..., found.real :]]
    compared = [_to_others(one, dim=2 if one.shape[2] > 1 else 1) for one in sorts if one.shape[2]]
    # The only answer to a look is compared with nobody.
    if values.shape[2] == 1:
        compared = [torch.zeros_like(values)]
    return torch.where(found.looked[..., None], torch.cat(compared, dim=2), 0.0)


def _to_others(values: Tensor, dim: int) -> Tensor:
    """Return values minus the mean of the others along an axis of two or more."""
    count = values.shape[dim]
    return (values - values.mean(dim=dim, keepdim=True)) * (count / (count - 1))


def _has_scale(found: BranchRewards, kind: str, eps: float) -> Tensor:
    _check_kind(kind)
    return has_scale(found.rewards.double().flatten(1), kind, eps)


def _check_kind(kind: str) -> None:
    if kind in UNBRANCHED or kind not in SCALES:
        known = sorted(set(SCALES) - set(UNBRANCHED))
        raise ConfigError(f"kind: expected one of {known} with branches, got {kind!r}")


def _scaled(differences: Tensor, found: BranchRewards, kind: str, eps: float) -> Tensor:
    """Scale differences (P, L, K) to others as a kind scales those to the mean of a group."""
    _check_kind(kind)
    scenes, looks, answers = differences.shape
    members = looks * answers
    centred = differences.reshape(scenes, members) * ((members - 1) / members)
    rewards = found.rewards.double().reshape(scenes, members)
    return SCALES[kind](centred, rewards, eps).reshape(differences.shape)
