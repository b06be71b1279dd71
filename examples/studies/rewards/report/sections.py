"""The sections of the report: each takes what is finished and returns Markdown, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import examples.studies.rewards.report.plots as plots
import examples.studies.rewards.report.tables as tables
from dip_agents.experiments.kinds import NO_LOOKS, OWN_LOOKS
from dip_env import make_source
from dip_env.metrics import Interval
from dip_wrappers.controls import first_regions
from examples.studies.rewards.config import Study
from examples.studies.rewards.measure.looking import SHEET
from examples.studies.rewards.plan import PHOTOS, Start, rules_of
from examples.studies.rewards.report.gallery import gallery, worst_and_best
from examples.studies.rewards.report.results import Logs, Results
from examples.studies.rewards.report.stats import Runs, difference, per_seed, value
from examples.studies.rewards.variants import (
    BASE,
    CHOICE,
    GRPO,
    NO_LOOK_REWARD,
    REWARDS,
    SFT_LONGER,
    Variant,
)

SHOWN = ("F1", "precision", "recall", "boxes_per_person", "looks", "well_formed", "look")
COMPARED = ("F1", "precision", "recall", "F1_50_95")
REWARD_SHOWN = ("F1", "precision", "recall", "F1_50_95", "boxes", "boxes_per_person")
GALLERY = 6
"""Scenes of each kind in the gallery."""
LEARN: frozenset[str] = frozenset(
    variant.name for variant in (*CHOICE.values(), *REWARDS) if variant.learns == "rewards"
)
"""Variants whose steps are logged as those of GRPO."""


@dataclass(frozen=True, eq=False)
class Context:
    """What sections are written from.

    Args:
        study: the choices.
        start: the starting model.
        results: of the finished runs.
        folder: where the report and its pictures go.
    """

    study: Study
    start: Start
    results: Results
    folder: Path

    def measured(self, variants: Sequence[Variant], scenes: str) -> tables.VariantRuns:
        """Return the variants that have a finished run on some scenes."""
        pairs = [(variant, self.results.runs(variant.name, scenes)) for variant in variants]
        return [(variant, runs) for variant, runs in pairs if runs]

    def everywhere(self) -> dict[str, tables.VariantRuns]:
        """Return what is finished of the core variants, by the name of the scenes."""
        found = {name: self.measured(self.study.core, name) for name in self.study.presets}
        return {name: pairs for name, pairs in found.items() if pairs}

    def named(self, word: str) -> str:
        """Return a word with the name of the study, where it has one."""
        return f"{word}_{self.study.name}" if self.study.name else word

    def figure(self, name: str) -> Path:
        """Return where a picture goes."""
        folder = self.folder / self.named("figures")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def picture(self, name: str, words: str) -> list[str]:
        """Return the lines that show a picture."""
        return [f"![{words}]({self.named('figures')}/{name})", ""]


def core(context: Context) -> list[str]:
    """What training does, and what each reward does, in-domain."""
    scenes = context.study.presets[0]
    variants = context.measured(context.study.core, scenes)
    if "core" not in context.study.parts or not variants:
        return []
    values = {
        variant.name: {metric: value(metric, runs) for metric in ("F1", "precision", "recall")}
        for variant, runs in variants
    }
    plots.intervals(values, f"held-out {scenes} scenes", context.figure("core.png"))
    return [
        f"## 1. What training does: held-out `{scenes}` scenes",
        "",
        *_names(variants),
        *tables.by_metric(variants, SHOWN),
        "",
        *([*looks, ""] if (looks := tables.where_it_looks(variants)) else []),
        *(
            line
            for before in _asked((BASE, SFT_LONGER, GRPO), context)
            for line in [*tables.gains(variants, COMPARED, before.name), ""]
        ),
        *context.picture("core.png", "F1, precision and recall of each variant"),
    ]


def rewards(context: Context) -> list[str]:
    """What each accuracy reward does."""
    scenes = context.study.presets[0]
    variants = context.measured((BASE, *REWARDS), scenes)
    if "rewards" not in context.study.parts or not any(
        variant in REWARDS for variant, _ in variants
    ):
        return []
    points = {variant.name: _points(runs) for variant, runs in variants}
    plots.precision_and_recall(points, context.figure("rewards.png"))
    return [
        f"## 2. Accuracy rewards: held-out `{scenes}` scenes",
        "",
        f"`{GRPO.name}` has the default accuracy reward: F1 at IoU 0.5.",
        "",
        *_names(variants),
        *tables.by_metric(variants, REWARD_SHOWN),
        "",
        *tables.gains(variants, REWARD_SHOWN, GRPO.name),
        "",
        *context.picture("rewards.png", "precision and recall of each run"),
    ]


def domains(context: Context) -> list[str]:
    """The core variants on scenes they were not trained on."""
    found = context.everywhere()
    if "domains" not in context.study.parts or not found:
        return []
    gains = {
        variant.name: _gains(variant, found)
        for variant in context.study.core
        if variant is not BASE
    }
    gains = {name: row for name, row in gains.items() if row}
    lines = [
        "## 3. In-domain and out of it",
        "",
        f"Trained on `{context.study.train_preset}` only.",
        "",
        *tables.across(found, "F1"),
        "",
        *(
            line
            for before in _asked((BASE, SFT_LONGER), context)
            for line in [*tables.across(found, "F1", before.name), ""]
        ),
        "What changes there: people found, boxes that hold one, boxes for each person.",
        "",
        *(
            line
            for metric in ("recall", "precision", "boxes_per_person")
            for line in [*tables.across(_kept(found, (BASE, SFT_LONGER, GRPO)), metric), ""]
        ),
    ]
    if gains:
        plots.intervals(gains, f"F1 - F1 of {BASE.name}, paired", context.figure("domains.png"))
        lines += context.picture("domains.png", "gain in F1 over the starting model")
    return lines


def photos(context: Context) -> list[str]:
    """Photographs, as a curiosity."""
    variants = context.measured((BASE, SFT_LONGER, GRPO), PHOTOS)
    if not variants:
        return ["Photographs: not measured (`--photos FOLDER`, a COCO json and its images).", ""]
    count = len(next(iter(variants[0][1].values()))["episodes"])
    return [
        f"### A curiosity: {tables.plural(count, 'photograph')}",
        "",
        "The model has only ever seen drawings; so few images say nothing about photographs.",
        "",
        *tables.by_metric(variants, ("F1", "precision", "recall", "boxes_per_person")),
        "",
    ]


def looking(context: Context) -> list[str]:
    """Whether the looks help, and what they cover."""
    found = {variant.name: context.results.looking(variant.name) for variant in (BASE, GRPO)}
    found = {name: controls for name, controls in found.items() if controls}
    if "looking" not in context.study.parts or not found:
        return []
    lines = [
        "## 4. Does looking help?",
        "",
        f"The same checkpoint on {context.study.looking_n} held-out "
        f"`{context.study.presets[0]}` scenes, greedy, with one thing changed. Looks cover "
        "a share of the image and a share of the ambiguity, which is that of the annotation: small "
        "and hidden people.",
        "",
    ]
    for name, controls in found.items():
        job = context.results.jobs("looking", name)[0]
        with Image.open(context.results.out / job.folder / SHEET) as sheet:
            sheet.convert("RGB").save(context.figure(f"looks_{name}.jpg"), quality=85)
        lines += [
            f"### `{name}`",
            "",
            *tables.looking(controls),
            "",
            "Scene by scene:",
            "",
            *tables.gain_harm(controls),
            "",
            *context.picture(f"looks_{name}.jpg", f"what the looks of {job.folder} cover"),
        ]
    noise = context.results.noise(BASE.name)
    if noise:
        lines += [
            f"### Is the look reward a signal? Two groups of {context.study.group_size} "
            f"by `{BASE.name}`",
            "",
            f"Rollouts at temperature {context.study.temperature:g} in "
            f"{context.study.looking_n} scenes; the differences to a scene's mean, pooled.",
            "",
            *tables.noise(noise),
            "",
        ]
    regions = context.start.rules.max_regions
    budget = {
        NO_LOOKS: 0,
        **{first_regions(k).name: k for k in range(1, regions)},
        OWN_LOOKS: regions,
    }
    values = {
        name: {
            count: value("F1", controls[control])
            for control, count in budget.items()
            if control in controls
        }
        for name, controls in found.items()
    }
    plots.budget(values, context.figure("budget.png"))
    return lines + context.picture("budget.png", "F1 against the number of regions looked at")


def agreement(context: Context) -> list[str]:
    """What several samples agree on, beside each of them."""
    study = context.study
    found = {variant.name: context.results.agreement(variant.name) for variant in (BASE, GRPO)}
    found = {name: seeds for name, seeds in found.items() if seeds}
    if "agreement" not in study.parts or not found:
        return []
    return [
        "## 5. Confidence from agreement",
        "",
        f"{study.samples} answers to each of {study.looking_n} held-out `{study.presets[0]}` "
        f"scenes at temperature {study.temperature:g}. A box of the consensus is the median of "
        "those that overlap, and its score the share of the samples that have it: AP, MR^-2 and "
        "JI are those of CrowdHuman; F1, precision and recall are of boxes that more than half of "
        "the samples have.",
        "",
        *tables.agreement(found),
        "",
    ]


def learning(context: Context) -> list[str]:
    """Curves over steps, and the numbers they end with."""
    lines = []
    for part, variants in (("core", context.study.core), ("rewards", REWARDS)):
        logs = {
            variant.name: context.results.logs(variant.name)
            for variant in variants
            if variant.name in LEARN
        }
        logs = {name: runs for name, runs in logs.items() if runs}
        if part not in context.study.parts or not logs:
            continue
        shown = {
            **tables.LOGGED,
            "eval/F1": "F1, further held-out scenes, greedy",
            "eval/look_coverage": "look coverage, likewise",
        }
        plots.curves(logs, shown, context.figure(f"curves_{part}.png"))
        lines += [
            f"Rollouts at temperature {context.study.temperature:g}, means of the last "
            f"{tables.LAST} steps:",
            "",
            *tables.training(logs),
            "",
            *_caught_up(logs),
            *context.picture(
                f"curves_{part}.png", "over steps: mean of the seeds, lowest and highest"
            ),
        ]
    return ["## 6. While learning", "", *lines] if lines else []


def _caught_up(logs: Logs) -> list[str]:
    """Say when each variant is as good as accuracy alone ends."""
    lines = tables.catching_up(logs, NO_LOOK_REWARD.name)
    if not lines:
        return []
    words = f"Until F1 on the further scenes is that of `{NO_LOOK_REWARD.name}` at its end:"
    return [words, "", *lines, ""]


def failures(context: Context) -> list[str]:
    """The scenes where GRPO's first model is worst and best."""
    scenes = context.study.presets[0]
    jobs = context.results.jobs("measure", GRPO.name, scenes)
    if not jobs:
        return []
    measured = context.results.measured(jobs[0])
    source = make_source(scenes, split="val")
    rules = rules_of(GRPO, context.start, trained=False)
    lines = [f"## 7. Where it fails, where it does well: {jobs[0].folder}", ""]
    for name, positions in zip(("worst", "best"), worst_and_best(measured, GALLERY), strict=True):
        words = f"the {len(positions)} of {measured.count} {scenes} scenes with the {name} F1"
        page = gallery(measured, positions, source, rules, words)
        page.save(context.figure(f"gallery_{name}.jpg"), quality=85)
        lines += context.picture(f"gallery_{name}.jpg", words)
    return lines


SECTIONS = (core, rewards, domains, photos, looking, agreement, learning, failures)


def grpo_leads(context: Context) -> bool:
    """Tell whether GRPO's F1 in-domain is above that of all others of a quick study."""
    runs = {
        variant.name: own for variant, own in context.everywhere().get(context.study.presets[0], ())
    }
    others = (BASE, SFT_LONGER, NO_LOOK_REWARD)
    if not {GRPO.name, *(variant.name for variant in others)} <= runs.keys():
        return False
    gains = [difference("F1", runs[variant.name], runs[GRPO.name]) for variant in others]
    return all(gain.value is not None and gain.value > 0 for gain in gains)


def _kept(
    found: Mapping[str, tables.VariantRuns], variants: Sequence[Variant]
) -> dict[str, tables.VariantRuns]:
    """Return the runs of some variants only."""
    return {scenes: [p for p in pairs if p[0] in variants] for scenes, pairs in found.items()}


def _asked(variants: Sequence[Variant], context: Context) -> list[Variant]:
    """Return those of some variants that the study has."""
    return [variant for variant in variants if variant in context.study.core]


def _gains(variant: Variant, found: Mapping[str, tables.VariantRuns]) -> dict[str, Interval]:
    """Gain of a variant over the start, by the name of the scenes."""
    row = {}
    for scenes, pairs in found.items():
        runs: dict[str, Runs] = {other.name: own for other, own in pairs}
        if {BASE.name, variant.name} <= runs.keys():
            row[scenes] = difference("F1", runs[BASE.name], runs[variant.name])
    return row


def _points(runs: Runs) -> list[tuple[float, float]]:
    """Precision and recall of each run."""
    precision, recall = (per_seed(metric, runs).values() for metric in ("precision", "recall"))
    return list(zip(precision, recall, strict=True))


def _names(variants: tables.VariantRuns) -> list[str]:
    """Say what each variant is."""
    rows = [[f"`{variant.name}`", variant.says] for variant, _ in variants]
    return [*tables.markdown(["variant", "what"], rows, numbers=False), ""]
