"""What comes out of a study, in sentences made from its numbers; ``tables`` holds the wording."""

from __future__ import annotations

from collections.abc import Sequence

import examples.studies.rewards.report.tables as tables
from dip_agents.experiments.kinds import NO_LOOKS, OWN_LOOKS
from examples.studies.rewards.config import Study
from examples.studies.rewards.report.results import Results
from examples.studies.rewards.variants import BASE, GRPO, REWARDS, SFT_LONGER, SFT_ORACLE, Variant


def summary(study: Study, results: Results) -> list[str]:
    """Say what is better than what, by F1 in pairs; nothing where nothing can be compared.

    Args:
        study: the choices.
        results: of the finished runs.

    Returns:
        Lines of Markdown.
    """
    in_domain = study.presets[:1]
    found = [
        ("Learning from rewards, against what else can be done", verdicts(study, results)),
        (
            "The look term and its credit, against none and others",
            _against(_ablations(study), in_domain, results),
        ),
        (
            "The default accuracy reward, against the others",
            _against([a for a in REWARDS if a is not GRPO], in_domain, results)
            if "rewards" in study.parts
            else [],
        ),
        ("Looking, against answering at once", _looking(results)),
    ]
    lines = [line for words, text in found if text for line in (f"{words}:", "", *text, "")]
    return ["## What comes out", "", *lines] if lines else []


def verdicts(study: Study, results: Results) -> list[str]:
    """Return how GRPO compares with the start and with fine-tuning, for each preset."""
    asked = [variant for variant in (BASE, SFT_LONGER, SFT_ORACLE) if variant in study.core]
    return _against(asked, study.presets, results)


def _ablations(study: Study) -> list[Variant]:
    return [
        variant for variant in study.core if variant.learns == "rewards" and variant is not GRPO
    ]


def _against(variants: Sequence[Variant], presets: Sequence[str], results: Results) -> list[str]:
    """Compare GRPO with each variant on each set of scenes that it is finished on."""
    lines = []
    for variant in variants:
        found: dict[str, tables.VariantRuns] = {}
        for scenes in presets:
            pairs = [(one, results.runs(one.name, scenes)) for one in (variant, GRPO)]
            found |= {scenes: pairs} if all(runs for _, runs in pairs) else {}
        lines += tables.verdict(found, variant.name, GRPO.name)
    return lines


def _looking(results: Results) -> list[str]:
    """Compare each model's own looks with none."""
    lines = []
    for variant in (BASE, GRPO):
        controls = results.looking(variant.name)
        if controls:
            pairs = [(Variant(name, ""), controls[name]) for name in (NO_LOOKS, OWN_LOOKS)]
            lines += tables.verdict({variant.name: pairs}, NO_LOOKS, OWN_LOOKS)
    return lines
