"""Diagnostics: known ways in which training goes wrong, read from the metrics of its steps.

A rule reads logged metrics only, so that the log of a run gives the same diagnostics as the run
did. A rule whose metrics are not logged, such as looks in fine-tuning, does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Thresholds:
    """When a metric counts as a problem."""

    min_streak: int = 3
    """Steps in a row that a problem must be there before it begins, and be gone before it ends: one
    step of a few scenes proves nothing."""
    first_steps: int = 5
    """Steps whose mean is the baseline that later ones are compared with."""
    max_boxes_over_truth: float = 2.0
    """Boxes for each person; at least half of them then match nobody."""
    max_duplicate_boxes: float = 0.2
    """Share of boxes that repeat another; honest answers have next to none."""
    max_empty_answers: float = 0.25
    """Share of answers without a box above that of scenes without people; a policy that is careful
    in hard scenes stays below."""
    max_huge_boxes: float = 0.2
    """Share of an answer's boxes that are too large to match anybody."""
    max_wasted_looks: float = 0.25
    """Share of rollouts that look at the whole image, or twice at the same region."""
    min_looked_at_first: float = 0.2
    """Share of rollouts with a look in the first steps from which looking can collapse."""
    min_looks_kept: float = 0.25
    """Part of that share below which looking has collapsed."""
    min_look_signal: float = 0.2
    """Share of groups whose members earn different look terms; below, looks are hardly learned."""
    min_entropy_kept: float = 0.2
    """Part of the first steps' entropy; siblings that are all alike have no advantage."""
    max_length_ratio: float = 2.0
    """Policy tokens in multiples of the first steps'."""
    max_truncated: float = 0.2
    """Share of rollouts that run out of tokens, or out of turns; share of turns that a token limit
    cuts."""
    max_parse_failures: float = 0.2
    """Share of turns that are malformed or refused; fine-tuned models begin below 0.1."""
    max_behaviour_gap: float = 0.05
    """Mean ``|log old - log sampler|`` in nats; bfloat16 alone comes to about 0.013 at temperature
    1, and to twice that at 0.5, since rounded logits are divided by it."""
    min_informative: float = 0.1
    """Share of groups with an advantage; below, most scenes of a step are wasted."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Diagnostic:
    """One problem of a run.

    Args:
        name: short and unique.
        evidence: the metrics that show it, as text.
        suggested_fix: what usually helps.
    """

    name: str
    evidence: str
    suggested_fix: str

    def __str__(self) -> str:
        """Return all of it in one line."""
        return f"{self.name}: {self.evidence}; suggested fix: {self.suggested_fix}"


def diagnose(now: Metrics, first: Metrics | None = None) -> list[Diagnostic]:
    """Return the problems of a step.

    Args:
        now: metrics of the step.
        first: mean metrics of the first steps, for rules that compare with them; or None.

    Returns:
        The diagnostics in a fixed order; none for a healthy step.
    """
    found = []
    for rule in _RULES:
        if not rule.applies(now, first or {}):
            continue
        if evidence := rule.evidence(now, first or {}):
            found.append(Diagnostic(rule.name, evidence, rule.suggested_fix))
    return found


class DiagnosticsMonitor:
    """Reports when a problem begins and when it ends, not that it is still there.

    Its state follows from the metrics of the steps so far: fed with those of a log, it goes on
    where the run was.
    """

    def __init__(self) -> None:
        """Start with a run that has no steps yet."""
        self.lasting: dict[str, Diagnostic] = {}
        """The problems that have begun and not ended, by name."""
        self._streaks: dict[str, int] = {}
        self._first: list[Metrics] = []

    def observe(self, metrics: Mapping[str, float | None]) -> list[str]:
        """Take the metrics of the next step.

        Args:
            metrics: of the step; None and NaN count as not measured.

        Returns:
            One line for each problem that begins or ends with this step.
        """
        now = {key: v for key, v in metrics.items() if v is not None and math.isfinite(v)}
        found = {diagnostic.name: diagnostic for diagnostic in diagnose(now, self._baseline())}
        if len(self._first) < THRESHOLDS.first_steps:
            self._first.append(now)
        lines = []
        for name in dict.fromkeys((*self._streaks, *found)):
            changing = (name in found) != (name in self.lasting)
            self._streaks[name] = self._streaks.get(name, 0) + 1 if changing else 0
            at_once = name in found and name in _AT_ONCE
            if self._streaks[name] < (1 if at_once else THRESHOLDS.min_streak):
                continue
            self._streaks[name] = 0
            if name in found:
                self.lasting[name] = found[name]
                lines.append(f"diagnostic begins: {found[name]}")
            else:
                del self.lasting[name]
                lines.append(f"diagnostic ends: {name}")
        return lines

    def _baseline(self) -> Metrics | None:
        """Return the means of the first steps, once they are over."""
        if len(self._first) < THRESHOLDS.first_steps:
            return None
        keys = {key for metrics in self._first for key in metrics}
        values = {key: [m[key] for m in self._first if key in m] for key in keys}
        return {key: sum(those) / len(those) for key, those in values.items()}


@dataclass(frozen=True)
class _Rule:
    """How to recognise one problem.

    Args:
        name: of the diagnostic.
        evidence: (metrics of the step, of the first steps) -> text, "" where there is no problem.
        suggested_fix: of the diagnostic.
        requires: metrics of the step without which the rule does not apply.
        requires_first: metrics of the first steps without which it does not apply.
        at_once: begins with the first step that shows it, since a setting is the cause.
    """

    name: str
    evidence: Callable[[Metrics, Metrics], str]
    suggested_fix: str
    requires: tuple[str, ...]
    requires_first: tuple[str, ...] = ()
    at_once: bool = False

    def applies(self, now: Metrics, first: Metrics) -> bool:
        """Return whether all that the rule reads was measured."""
        return now.keys() >= {*self.requires} and first.keys() >= {*self.requires_first}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _box_spamming(now: Metrics, first: Metrics) -> str:
    ratio, copies = now["rollout/boxes_over_truth"], now.get("rollout/duplicate_boxes", 0.0)
    if ratio <= THRESHOLDS.max_boxes_over_truth and copies <= THRESHOLDS.max_duplicate_boxes:
        return ""
    return f"{ratio:.1f} boxes for each person, {_percent(copies)} of them repeat another"


def _empty_answers(now: Metrics, first: Metrics) -> str:
    answers, scenes = now["rollout/empty_answers"], now["rollout/empty_scenes"]
    if answers - scenes <= THRESHOLDS.max_empty_answers:
        return ""
    return (
        f"{_percent(answers)} of rollouts answer without a box, {_percent(scenes)} of their scenes "
        "are empty"
    )


def _huge_boxes(now: Metrics, first: Metrics) -> str:
    share = now["rollout/huge_boxes"]
    if share <= THRESHOLDS.max_huge_boxes:
        return ""
    box, person = (100 * now[f"rollout/{name}_area"] for name in ("box", "truth"))
    return (
        f"{_percent(share)} of boxes are too large for anybody (a box covers {box:.2g} % of the "
        f"image, a person {person:.2g} %)"
    )


def _whole_looks(now: Metrics, first: Metrics) -> str:
    share = now["rollout/whole_looks"]
    if share <= THRESHOLDS.max_wasted_looks:
        return ""
    return f"{_percent(share)} of rollouts look at it"


def _repeated_looks(now: Metrics, first: Metrics) -> str:
    share = now["rollout/repeated_looks"]
    if share <= THRESHOLDS.max_wasted_looks:
        return ""
    return f"{_percent(share)} of rollouts look twice at the same"


def _look_collapse(now: Metrics, first: Metrics) -> str:
    share, before = now["rollout/looked"], first["rollout/looked"]
    collapsed = share < THRESHOLDS.min_looks_kept * before
    if before < THRESHOLDS.min_looked_at_first or not collapsed:
        return ""
    return f"{_percent(share)} of rollouts look, {_percent(before)} did in the first steps"


def _no_look_signal(now: Metrics, first: Metrics) -> str:
    share = now["group/frac_look_signal"]
    # Where nobody looks or all do the same, look terms are equal; that has other reasons.
    other = now["rollout/looked"] < THRESHOLDS.min_looked_at_first or _nothing_to_learn(now, first)
    if share >= THRESHOLDS.min_look_signal or other:
        return ""
    return (
        f"{_percent(share)} of groups have members with different look terms; "
        f"{now['rollout/ambiguous_people']:.1f} people of a scene are ambiguous"
    )


def _entropy_collapse(now: Metrics, first: Metrics) -> str:
    entropy, before = now["train/entropy"], first["train/entropy"]
    if entropy >= THRESHOLDS.min_entropy_kept * before:
        return ""
    return f"{entropy:.2g} nats per token, {before:.2g} in the first steps"


def _length_explosion(now: Metrics, first: Metrics) -> str:
    tokens, truncated = now["rollout/policy_tokens_mean"], now["rollout/truncated"]
    before = first.get("rollout/policy_tokens_mean", math.inf)
    out_of_turns = now["rollout/ending_max_turns"]
    within = (
        tokens <= THRESHOLDS.max_length_ratio * before and out_of_turns <= THRESHOLDS.max_truncated
    )
    # Malformed turns and lists of too many boxes are longer too; they are problems of their own.
    other = _format_drift(now, first) or _box_spamming(now, first)
    if truncated <= THRESHOLDS.max_truncated and (other or within):
        return ""
    times = f" ({tokens / before:.1f} times those of the first steps)" if before < math.inf else ""
    return (
        f"{tokens:.0f} tokens{times}, {_percent(truncated)} of rollouts run out of tokens and "
        f"{_percent(out_of_turns)} out of turns"
    )


def _truncated_turns(now: Metrics, first: Metrics) -> str:
    share = now["rollout/truncated_share"]
    if share <= THRESHOLDS.max_truncated:
        return ""
    return f"a token limit cuts {_percent(share)} of turns, which cannot be read then"


def _format_drift(now: Metrics, first: Metrics) -> str:
    share = now["rollout/parse_failures"] / max(now["rollout/turns"], 1e-9)
    if share <= THRESHOLDS.max_parse_failures:
        return ""
    return f"{_percent(share)} of turns are malformed or refused"


def _behaviour_gap(now: Metrics, first: Metrics) -> str:
    gap = now["train/behaviour_gap"]
    if gap <= THRESHOLDS.max_behaviour_gap:
        return ""
    return f"sampler and trainer differ by {gap:.2g} nats per token before the first update"


def _nothing_to_learn(now: Metrics, first: Metrics) -> str:
    share = now["group/frac_informative"]
    if share >= THRESHOLDS.min_informative:
        return ""
    return f"{_percent(share)} of groups have members with different rewards"


_RULES: Sequence[_Rule] = (
    _Rule(
        "box spamming",
        _box_spamming,
        "accuracy f_beta with beta 1 (recall alone rewards spam), a smaller max_boxes",
        requires=("rollout/boxes_over_truth",),
    ),
    _Rule(
        "empty answers",
        _empty_answers,
        "a smaller format_weight, so that form alone is worth little; more or easier scenes",
        requires=("rollout/empty_answers", "rollout/empty_scenes"),
    ),
    _Rule(
        "huge boxes",
        _huge_boxes,
        "a higher iou, or one that rises by reward_schedule",
        requires=("rollout/huge_boxes", "rollout/box_area", "rollout/truth_area"),
    ),
    _Rule(
        "whole-image looks",
        _whole_looks,
        "a smaller crop_size and fewer max_regions; see dip audit",
        requires=("rollout/whole_looks",),
    ),
    _Rule(
        "repeated looks",
        _repeated_looks,
        "fewer max_looks; see dip audit",
        requires=("rollout/repeated_looks",),
    ),
    _Rule(
        "look collapse",
        _look_collapse,
        "a look_weight that falls by reward_schedule, turn_discount 1, more demonstrations",
        requires=("rollout/looked",),
        requires_first=("rollout/looked",),
    ),
    _Rule(
        "look term without signal",
        _no_look_signal,
        "a higher temperature, scenes in which people are hard to see",
        requires=(
            "group/frac_look_signal",
            "group/frac_informative",
            "rollout/ambiguous_people",
            "rollout/looked",
        ),
    ),
    _Rule(
        "entropy collapse",
        _entropy_collapse,
        "a higher clip_high or an entropy_target, a lower learning_rate, an earlier checkpoint",
        requires=("train/entropy",),
        requires_first=("train/entropy",),
    ),
    _Rule(
        "length explosion",
        _length_explosion,
        "fewer max_turns, a larger token_budget where answers are long; aggregation token_mean",
        requires=(
            "rollout/policy_tokens_mean",
            "rollout/truncated",
            "rollout/ending_max_turns",
            "rollout/parse_failures",
            "rollout/turns",
            "rollout/boxes_over_truth",
        ),
    ),
    _Rule(
        "truncated turns",
        _truncated_turns,
        "a larger max_new_tokens and token_budget, scenes with fewer people",
        requires=("rollout/truncated_share",),
        at_once=True,
    ),
    _Rule(
        "format drift",
        _format_drift,
        "a lower learning_rate, a kl_weight, more demonstrations; read the completions",
        requires=("rollout/parse_failures", "rollout/turns"),
    ),
    _Rule(
        "silent off-policy",
        _behaviour_gap,
        "the same temperature, top_p 1 and top_k 0 in the engine, weights that are synced each "
        "step, importance_cap 2",
        requires=("train/behaviour_gap",),
    ),
    _Rule(
        "nothing to learn",
        _nothing_to_learn,
        "zero_variance_groups resample, a larger group_size or temperature, scenes neither too "
        "easy nor too hard",
        requires=("group/frac_informative",),
    ),
)

_AT_ONCE = {rule.name for rule in _RULES if rule.at_once}
