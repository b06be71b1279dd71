"""The study's tables in Markdown, from numbers of each scene; reads no file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dip_agents.evaluation import format_interval
from dip_agents.experiments.kinds import NO_LOOKS, OWN_LOOKS
from dip_agents.experiments.measures import gain_and_harm
from examples.studies.rewards.measure.agreement import Agreement
from examples.studies.rewards.report.results import Logs
from examples.studies.rewards.report.stats import (
    COVERED,
    Runs,
    difference,
    overlap,
    per_scene_f1,
    per_seed,
    value,
)
from examples.studies.rewards.variants import Variant

HEADINGS = {
    "F1": "F1",
    "precision": "precision",
    "recall": "recall",
    "F1_50_95": "F1 over IoU .5:.95",
    "boxes": "boxes an answer",
    "boxes_per_person": "boxes per person",
    "duplicates": "duplicates",
    "looks": "looks",
    "well_formed": "well-formed",
    "look": "look term",
    "regions": "regions",
    "look_area": "of the image",
    "covered": "of the ambiguity",
    "covered_at_random": "at random places",
    "covered_by_oracle": "oracle looks",
}
"""How metrics are called in tables."""
LOOKS = ("look_area", *COVERED)
"""What is shown of where a variant looks."""
_LOOK_COLUMNS = frozenset((*COVERED, "area", "ambiguous"))
AGREEMENT = {
    "F1": "F1", "precision": "precision", "recall": "recall", "AP": "AP", "MR": "MR^-2", "JI": "JI"
}  # fmt: skip
"""What is shown of a consensus, by metric."""
LAST = 10
"""Steps that a table of training numbers takes the mean of."""
LOGGED = {
    "reward/total": "reward, each variant's own",
    "reward/accuracy": "accuracy term",
    "reward/look": "look term",
    "rollout/look_coverage": "share of the ambiguity inside looks",
    "rollout/looked": "rollouts that look",
    "rollout/boxes": "boxes an answer",
    "train/entropy": "entropy, nats a token",
    "train/ref_kl": "KL to the start",
    "group/frac_informative": "informative groups",
}
"""What the curves show, by log key."""

NOISE = {
    "same_people": "who is ambiguous, to one group and to another",
    "same_look": "the look term of a rollout, on its siblings and on another group",
    "as_prior": "the look term, on siblings and by the annotation prior",
    "with_accuracy": "the look term and the accuracy term of a rollout",
    "look_share": "squares of the look term's part of the reward, over those of the reward",
}
"""What two groups in each scene tell, by metric."""

VariantRuns = Sequence[tuple[Variant, Runs]]
"""Variants with their runs on the same scenes, those without any left out."""


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True
) -> list[str]:
    """Return the lines of a table.

    Args:
        header: names of the columns.
        rows: their cells.
        numbers: all columns but the first hold numbers, and go to the right.
    """
    marks = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def plural(count: int, word: str) -> str:
    """Return a count with its word, such as ``1 run`` and ``2 runs``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def by_metric(variants: VariantRuns, metrics: Sequence[str]) -> list[str]:
    """Return a row for each variant and a column for each metric, with intervals."""
    header = ["variant", "seeds", *(HEADINGS[metric] for metric in metrics), "F1 of each seed"]
    rows = [
        [
            f"`{variant.name}`",
            _seeds(runs),
            *(format_interval(value(metric, runs)) for metric in metrics),
            " ".join(f"{v:.3f}" for v in per_seed("F1", runs).values()),
        ]
        for variant, runs in variants
    ]
    return markdown(header, rows)


def where_it_looks(variants: VariantRuns) -> list[str]:
    """Return what the looks of each variant cover, beside random and oracle looks.

    Args:
        variants: those that were measured before there were such numbers are left out.

    Returns:
        A table; no line where no variant has them.
    """
    rows = [
        [f"`{variant.name}`", *(format_interval(value(metric, runs)) for metric in LOOKS)]
        for variant, runs in variants
        if all(set(columns) >= _LOOK_COLUMNS for columns in runs.values())
    ]
    return (
        markdown(["its looks cover", *(HEADINGS[metric] for metric in LOOKS)], rows) if rows else []
    )


def gains(variants: VariantRuns, metrics: Sequence[str], reference: str) -> list[str]:
    """Return, for each other variant, its paired differences to one variant.

    Args:
        variants: the variants.
        metrics: columns.
        reference: name of the variant that is taken off.
    """
    found = {variant.name: runs for variant, runs in variants}
    if reference not in found:
        return [f"`{reference}` is not finished: nothing to compare with."]
    header = [f"variant - `{reference}`, paired", *(HEADINGS[metric] for metric in metrics)]
    rows = [
        [
            f"`{variant.name}`",
            *(format_interval(difference(m, found[reference], runs), sign=True) for m in metrics),
        ]
        for variant, runs in variants
        if variant.name != reference
    ]
    return markdown(header, rows)


def across(
    variants: Mapping[str, VariantRuns], metric: str, reference: str | None = None
) -> list[str]:
    """Return a row for each variant and a column for each set of scenes.

    Args:
        variants: by the name of the scenes.
        metric: what is shown.
        reference: name of the variant that is taken off, in pairs; None for the values themselves.
    """
    names = list(dict.fromkeys(variant.name for pairs in variants.values() for variant, _ in pairs))
    cells: dict[str, dict[str, str]] = {name: {} for name in names if name != reference}
    for scenes, pairs in variants.items():
        found = {variant.name: runs for variant, runs in pairs}
        for name, runs in found.items():
            if reference is None:
                cells[name][scenes] = format_interval(value(metric, runs))
            elif name != reference and reference in found:
                gain = difference(metric, found[reference], runs)
                cells[name][scenes] = format_interval(gain, sign=True)
    first = "variant" if reference is None else f"variant - `{reference}`, paired"
    rows = [[f"`{n}`", *(row.get(scenes, "-") for scenes in variants)] for n, row in cells.items()]
    return markdown([f"{first}: {HEADINGS[metric]}", *variants], rows)


def verdict(variants: Mapping[str, VariantRuns], before: str, after: str) -> list[str]:
    """Say for each set of scenes what comes out of comparing two variants by F1.

    Args:
        variants: by the name of the scenes.
        before: name of the first variant.
        after: name of the second.
    """
    lines = []
    for scenes, pairs in variants.items():
        found = {variant.name: runs for variant, runs in pairs}
        if before not in found or after not in found:
            lines.append(f"- `{scenes}`: not finished.")
            continue
        gain = difference("F1", found[before], found[after])
        if gain.value is None or gain.low is None or gain.high is None:
            lines.append(f"- `{scenes}`: no difference defined ({gain.reason}).")
            continue
        word = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
        both = overlap(value("F1", found[before]), value("F1", found[after]))
        lines.append(
            f"- `{scenes}`: `{after}` is **{word}**{_than(word, before)}, F1 "
            f"{format_interval(gain, sign=True)} in pairs; their own intervals "
            f"{'overlap' if both else 'do not overlap'}."
        )
    return lines


def looking(controls: Mapping[str, Runs]) -> list[str]:
    """Return a row for each control, with paired differences to the own looks.

    Args:
        controls: runs by the name of the control.
    """
    metrics = ("F1", "precision", "recall", "regions", "look_area", "covered")
    own = controls[OWN_LOOKS]
    rows = [
        [
            name,
            *(format_interval(value(metric, runs)) for metric in metrics),
            "" if name == OWN_LOOKS else format_interval(difference("F1", own, runs), sign=True),
        ]
        for name, runs in controls.items()
    ]
    header = ["what is changed", *(HEADINGS[m] for m in metrics), f"F1 - F1 of {OWN_LOOKS}, paired"]
    return markdown(header, rows)


def gain_harm(controls: Mapping[str, Runs]) -> list[str]:
    """Split the scenes by what each kind of look did to them, against answering without.

    Args:
        controls: runs by the name of the control; shares and changes are means over seeds.
    """
    rows = []
    for name, runs in controls.items():
        if name == NO_LOOKS:
            continue
        splits = [
            gain_and_harm(per_scene_f1(controls[NO_LOOKS][seed]), per_scene_f1(columns))
            for seed, columns in runs.items()
        ]
        scenes = [split.rose + split.fell + split.stayed for split in splits]
        shares = (
            np.mean([getattr(s, part) / n for s, n in zip(splits, scenes, strict=True)])
            for part in ("rose", "fell", "stayed")
        )
        changes = (
            mean([v for s in splits if (v := getattr(s, part)) is not None])
            for part in ("mean_rise", "mean_fall")
        )
        rows.append(
            [
                name,
                *(f"{100 * share:.0f} %" for share in shares),
                *("-" if math.isnan(change) else f"{change:+.3f}" for change in changes),
            ]
        )
    header = ["looks, against none", "F1 rose", "fell", "stayed", "mean rise", "mean fall"]
    return markdown(header, rows)


def agreement(found: Mapping[str, Mapping[int | None, Agreement]]) -> list[str]:
    """Return a row for the single samples of each model, and one for their consensus.

    Args:
        found: by variant and seed.
    """
    rows = []
    for variant, seeds in found.items():
        for seed, metrics in seeds.items():
            name = variant if seed is None else f"{variant}, seed {seed}"
            for part, one in metrics.items():
                cells = (format_interval(one[key]) if key in one else "" for key in AGREEMENT)
                rows.append([f"{name}: {part}", *cells])
    return markdown(["answers", *AGREEMENT.values()], rows)


def noise(runs: Runs) -> list[str]:
    """Say what two groups agree on, and what the look term has to do with the rest.

    Args:
        runs: of ``noise.py``.
    """
    rows = [[words, format_interval(value(metric, runs))] for metric, words in NOISE.items()]
    return markdown(["within scenes", "correlation, or share"], rows)


def training(
    logs: Logs,
) -> list[str]:
    """Return the means of the last steps, over steps and seeds; ``-`` where nothing was logged.

    Args:
        logs: rows of each step, by variant and seed.
    """
    rows = []
    for variant, runs in logs.items():
        last = [row for steps in runs.values() for row in list(steps)[-LAST:]]
        means = [_logged(last, key) for key in LOGGED]
        rows.append([f"`{variant}`", *("-" if math.isnan(m) else f"{m:.3f}" for m in means)])
    return markdown(["variant", *LOGGED.values()], rows)


def catching_up(logs: Logs, reference: str) -> list[str]:
    """Return after how many steps and sampled tokens each variant is as good as one ends.

    Args:
        logs: rows of each step, by variant and seed; with measurements while learning.
        reference: name of the variant whose last measured F1 is to be reached.

    Returns:
        Lines of a table, over the seeds that both have; nothing without the measurements.
    """
    ends = {seed: _watched(rows, "eval/F1") for seed, rows in logs.get(reference, {}).items()}
    ends = {seed: found for seed, found in ends.items() if found}
    rows = []
    for name, runs in logs.items():
        reached: list[tuple[int, float] | None] = []
        for seed in sorted(runs.keys() & ends.keys(), key=str):
            goal = ends[seed][-1][1]
            steps = (step for step, value in _watched(runs[seed], "eval/F1") if value >= goal)
            first = next(steps, None)
            spent = [row.get("rollout/sampled_tokens") or 0.0 for row in runs[seed][: first or 0]]
            reached.append(None if first is None else (first, sum(spent)))
        if reached:
            found = [one for one in reached if one is not None]
            rows.append(
                [
                    f"`{name}`",
                    " ".join("-" if one is None else str(one[0]) for one in reached),
                    f"{len(found)} of {len(reached)}",
                    f"{mean([tokens for _, tokens in found]) / 1000:.0f}" if found else "-",
                ]
            )
    header = ["variant", "steps, each seed", "seeds", "sampled tokens, thousands"]
    return markdown(header, rows) if rows else []


def _watched(rows: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[int, float]]:
    """Return (step, value) where a key was logged; rows are steps from 1 on, in order."""
    return [(k, v) for k, row in enumerate(rows, 1) if (v := row.get(key)) is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def _logged(rows: Sequence[Mapping[str, float | None]], key: str) -> float:
    return mean([v for row in rows if (v := row.get(key)) is not None])


def _seeds(runs: Runs) -> str:
    return "-" if None in runs else str(len(runs))


def _than(word: str, other: str) -> str:
    return f" from `{other}`" if word == "not told apart" else f" than `{other}`"
