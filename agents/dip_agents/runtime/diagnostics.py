"""Known ways in which training goes wrong, told from the numbers of its steps; changes nothing.

Each rule reads logged metrics only, so that the log of a run tells the same as the run did. What a
run does not log, such as looks in a fine-tuning, no rule can find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Metrics = Mapping[str, float]

PATIENCE = 3
"""Steps in a row that must show a symptom before it begins, and be free of it before it ends: one
step of a few scenes proves nothing."""
FIRST_STEPS = 5
"""Steps whose mean is what the run started from; later ones are compared with it."""

MOST_BOXES = 2.0
"""Boxes for each person; half of them at least then find nobody."""
MOST_DUPLICATES = 0.2
"""Share of boxes that repeat another; those who answer in earnest repeat next to none."""
MOST_EMPTY = 0.25
"""Share of answers without a box above that of scenes without people; a policy that is careful
in hard scenes stays below."""
MOST_HUGE = 0.2
"""Share of an answer's boxes that are too large to find anybody."""
MOST_WASTED_LOOKS = 0.25
"""Share of rollouts that look at everything, or twice at the same."""
LOOKED_AT_FIRST = 0.2
"""Share of rollouts with a look from which looking can collapse."""
LOOKS_LEFT = 0.25
"""Part of that share which is left when it has collapsed."""
ENTROPY_LEFT = 0.2
"""Part of the first steps' entropy; siblings that all say the same teach nothing."""
LONGER = 2.0
"""Times the tokens of the first steps."""
MOST_CUT = 0.2
"""Share of rollouts that run out of tokens, or out of turns."""
MOST_UNREAD = 0.2
"""Share of turns that are malformed or refused; taught models begin below 0.1."""
LARGEST_GAP = 0.05
"""Mean ``|log old - log sampler|`` in nats; bfloat16 alone comes to about 0.013 at temperature 1,
and to twice that at 0.5, since rounded logits are divided by it."""
FEWEST_MIXED = 0.1
"""Share of groups with something to teach; below, the scenes of a step are played for nothing."""


@dataclass(frozen=True)
class Diagnostic:
    """One thing that goes wrong.

    Args:
        name: short and unique.
        sign: the numbers that show it, in words.
        remedy: what usually helps.
    """

    name: str
    sign: str
    suggested_fix: str

    def __str__(self) -> str:
        """Return all of it in one line."""
        return f"{self.name}: {self.sign}; what usually helps: {self.suggested_fix}"


def diagnose(now: Metrics, first: Metrics | None = None) -> list[Diagnostic]:
    """Return what goes wrong in a step.

    Args:
        now: metrics of the step.
        first: what the run started from, for what only a comparison shows; or None.

    Returns:
        The symptoms in a fixed order; none for a healthy step.
    """
    found = [_sign(rule, now, first or {}) for rule in _RULES]
    return [
        Diagnostic(rule.name, sign, rule.suggested_fix)
        for rule, sign in zip(_RULES, found, strict=True)
        if sign
    ]


class DiagnosticsMonitor:
    """Tells when a symptom begins and when it ends, not that it is still there.

    It keeps nothing but what the metrics of the steps so far make of it: fed with those of a log,
    it goes on where the run was.
    """

    def __init__(self) -> None:
        """Start with a run that has no steps yet."""
        self.lasting: dict[str, Diagnostic] = {}
        """What goes wrong now, by name."""
        self._streaks: dict[str, int] = {}
        self._first: list[Metrics] = []

    def observe(self, metrics: Mapping[str, float | None]) -> list[str]:
        """Take the metrics of the next step.

        Args:
            metrics: of the step; None and NaN count as not measured.

        Returns:
            One line for each symptom that begins or ends with this step.
        """
        now = {key: v for key, v in metrics.items() if v is not None and math.isfinite(v)}
        found = {diagnostic.name: diagnostic for diagnostic in diagnose(now, self._started_from())}
        if len(self._first) < FIRST_STEPS:
            self._first.append(now)
        lines = []
        for name in dict.fromkeys((*self._streaks, *found)):
            changing = (name in found) != (name in self.lasting)
            self._streaks[name] = self._streaks.get(name, 0) + 1 if changing else 0
            if self._streaks[name] < PATIENCE:
                continue
            self._streaks[name] = 0
            if name in found:
                self.lasting[name] = found[name]
                lines.append(f"symptom begins: {found[name]}")
            else:
                del self.lasting[name]
                lines.append(f"symptom ends: {name}")
        return lines

    def _started_from(self) -> Metrics | None:
        """Return the means of the first steps, once they are over."""
        if len(self._first) < FIRST_STEPS:
            return None
        keys = {key for metrics in self._first for key in metrics}
        values = {key: [m[key] for m in self._first if key in m] for key in keys}
        return {key: sum(those) / len(those) for key, those in values.items()}


@dataclass(frozen=True)
class _Rule:
    """How to tell one symptom; ``sign`` returns "" where it is absent."""

    name: str
    sign: Callable[[Metrics, Metrics], str]
    suggested_fix: str


def _sign(rule: _Rule, now: Metrics, first: Metrics) -> str:
    try:
        return rule.sign(now, first)
    except KeyError:  # not measured
        return ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _spam(now: Metrics, first: Metrics) -> str:
    ratio, copies = now["rollout/boxes_over_truth"], now.get("rollout/duplicate_boxes", 0.0)
    if ratio <= MOST_BOXES and copies <= MOST_DUPLICATES:
        return ""
    return f"{ratio:.1f} boxes for each person, {_percent(copies)} of them repeat another"


def _empty(now: Metrics, first: Metrics) -> str:
    empty, due = now["rollout/empty_answers"], now["rollout/empty_scenes"]
    if empty - due <= MOST_EMPTY:
        return ""
    return f"{_percent(empty)} of rollouts answer nobody, {_percent(due)} of their scenes are empty"


def _huge(now: Metrics, first: Metrics) -> str:
    share = now["rollout/huge_boxes"]
    if share <= MOST_HUGE:
        return ""
    box, person = (100 * now[f"rollout/{name}_area"] for name in ("box", "truth"))
    return (
        f"{_percent(share)} of boxes are too large for anybody (a box covers {box:.2g} % of the "
        f"image, a person {person:.2g} %)"
    )


def _whole(now: Metrics, first: Metrics) -> str:
    share = now["rollout/whole_looks"]
    return f"{_percent(share)} of rollouts look at it" if share > MOST_WASTED_LOOKS else ""


def _repeated(now: Metrics, first: Metrics) -> str:
    share = now["rollout/repeated_looks"]
    if share <= MOST_WASTED_LOOKS:
        return ""
    return f"{_percent(share)} of rollouts look twice at the same"


def _no_looks(now: Metrics, first: Metrics) -> str:
    share, before = now["rollout/looked"], first["rollout/looked"]
    if before < LOOKED_AT_FIRST or share >= LOOKS_LEFT * before:
        return ""
    return f"{_percent(share)} of rollouts look, {_percent(before)} did in the first steps"


def _entropy(now: Metrics, first: Metrics) -> str:
    entropy, before = now["train/entropy"], first["train/entropy"]
    if entropy >= ENTROPY_LEFT * before:
        return ""
    return f"{entropy:.2g} nats per token, {before:.2g} in the first steps"


def _length(now: Metrics, first: Metrics) -> str:
    tokens, cut = now["rollout/policy_tokens_mean"], now["rollout/truncated"]
    before = first.get("rollout/policy_tokens_mean", math.inf)
    endless = now["rollout/ending_max_turns"]
    # Who is not understood, or lists too many boxes, says more too; that has a name of its own.
    other = _unread(now, first) or _spam(now, first)
    if cut <= MOST_CUT and (other or (tokens <= LONGER * before and endless <= MOST_CUT)):
        return ""
    times = f" ({tokens / before:.1f} times those of the first steps)" if before < math.inf else ""
    return (
        f"{tokens:.0f} tokens{times}, {_percent(cut)} of rollouts run out of tokens and "
        f"{_percent(endless)} out of turns"
    )


def _unread(now: Metrics, first: Metrics) -> str:
    share = now["rollout/parse_failures"] / max(now["rollout/turns"], 1e-9)
    return f"{_percent(share)} of turns are malformed or refused" if share > MOST_UNREAD else ""


def _gap(now: Metrics, first: Metrics) -> str:
    gap = now["train/behaviour_gap"]
    if gap <= LARGEST_GAP:
        return ""
    return f"sampler and trainer differ by {gap:.2g} nats per token before the first update"


def _nothing(now: Metrics, first: Metrics) -> str:
    share = now["group/frac_informative"]
    if share >= FEWEST_MIXED:
        return ""
    return f"{_percent(share)} of groups have members that earned differently"


_RULES: Sequence[_Rule] = (
    _Rule(
        "box spamming",
        _spam,
        "accuracy f_beta with beta 1 (recall alone pays for spam), a smaller max_boxes",
    ),
    _Rule(
        "empty answers",
        _empty,
        "a smaller format_weight, so that form alone is worth little; more or easier scenes",
    ),
    _Rule("huge boxes", _huge, "a higher iou, or one that rises by reward_schedule"),
    _Rule("whole-image looks", _whole, "a smaller crop_size and fewer max_regions; see dip audit"),
    _Rule("repeated looks", _repeated, "fewer max_looks; see dip audit"),
    _Rule(
        "look collapse",
        _no_looks,
        "a look_weight that falls by reward_schedule, turn_discount 1, more demonstrations",
    ),
    _Rule(
        "entropy collapse",
        _entropy,
        "a higher clip_high or an entropy_target, a lower learning_rate, an earlier checkpoint",
    ),
    _Rule(
        "length explosion",
        _length,
        "fewer max_turns, a larger token_budget where answers are long; aggregation token_mean",
    ),
    _Rule(
        "format drift",
        _unread,
        "a lower learning_rate, a kl_weight, more demonstrations; read the completions",
    ),
    _Rule(
        "silent off-policy",
        _gap,
        "the same temperature, top_p 1 and top_k 0 in the engine, weights that are synced each "
        "step, importance_cap 2",
    ),
    _Rule(
        "nothing to learn",
        _nothing,
        "zero_variance_groups resample, a larger group_size or temperature, scenes neither too "
        "easy nor too hard",
    ),
)
