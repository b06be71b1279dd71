"""RESULTS.md from the folders of finished runs: every number and picture comes from there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from examples.studies.rewards.report.results import Results
from examples.studies.rewards.report.sections import SECTIONS, Context
from examples.studies.rewards.report.stats import ROUNDS
from examples.studies.rewards.report.summary import summary
from examples.studies.rewards.report.tables import markdown, plural

INTERVALS = f"""\
A value is the mean over seeds of a metric pooled over scenes. In brackets is its 95 % interval: a
percentile bootstrap of {ROUNDS} samples that draws scenes and, for variants with several, seeds,
both with replacement. A paired difference draws the same scenes for both variants, and the same
seeds, since variants learn from the same scenes under the same seed. Few seeds are a coarse sample
of what seeds can
do: the value of each one stands beside the mean.
"""
GPU = """\
## On a GPU: not run

The core rows with a model of 110 million weights, fine-tuned from scratch at 448 px:

```bash
python -m examples.studies.rewards.measure.larger --out runs/small/untrained
dip sft --model runs/small/untrained --out runs/small --device cuda \\
  --mix far=4 crowd=2 easy=1 --n 50000 --views 6 --store runs/scenes --workers 8 \\
  --steps 12000 --batch-size 64 --optimizer muon --learning-rate 1e-3 --decay-steps 3000 \\
  --coordinate-sigma 1.0 --final-sigma 0.4 --dense-weight 1 --p-no-look 0.1 \\
  --p-given-look 0.3 --p-blurred-overview 0.4 --magnifications 4 3 2 --look random_tiles \\
  --min-visible-height 8
python -m examples.studies.rewards --gpu
```
"""


def write_report(context: Context) -> Path:
    """Write the report, with what is missing.

    Args:
        context: what it is written from.

    Returns:
        The file.
    """
    lines = head(context) + summary(context.study, context.results)
    for section in SECTIONS:
        lines += section(context)
    lines += runs(context.results)
    if not context.study.gpu:
        lines += GPU.splitlines()
    context.folder.mkdir(parents=True, exist_ok=True)
    path = context.folder / f"{context.named('RESULTS')}.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def head(context: Context) -> list[str]:
    """Return title, commands, conditions, and what is missing."""
    study, results, rules = context.study, context.results, context.start.rules
    records = list(results.records.values())
    dates = sorted(distinct(records, "date"))
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "-"
    versions = [
        ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        for record in records
    ]
    lines = [
        "# What learning from these rewards does",
        "",
        "Written by the command below from the folders of its runs; no number is typed by hand.",
        "The same command goes on where it was stopped, `--report` writes what there is so far,",
        "`--quick` repeats the main comparison in minutes, `--help` lists all choices.",
        "",
        *(f"- Command: `{command}`" for command in distinct(records, "command")),
        f"- Commit: {', '.join(distinct(records, 'commit')) or '-'}; date: {days}",
        *(f"- Machine: {machine}" for machine in distinct(records, "machine")),
        *(f"- Software: {line}" for line in dict.fromkeys(versions)),
        f"- {plural(len(records), 'run')}, {hours(records)} hours of wall time added up; "
        f"{study.jobs} side by side with {plural(study.threads, 'thread')} each",
        f"- Start: `{study.model}`, fingerprint {context.start.fingerprint}; overview "
        f"{rules.view_size} px, crops {rules.crop_size} px, {plural(rules.max_looks, 'look')} of "
        f"up to {plural(rules.max_regions, 'region')}",
        f"- Each variant: {plural(study.steps, 'update')} from "
        f"{study.steps * study.scenes_per_step} `{study.train_preset}` scenes "
        f"(split train; of a seed the same for all variants), "
        f"{study.episodes} episodes an update: {study.scenes_per_step} scenes x "
        f"{study.group_size} rollouts at learning rate {study.learning_rate:g}, or as many "
        f"demonstrations at {study.sft_learning_rate:g}",
        f"- Measured: the first {study.n} scenes of each preset's split val, the same for all "
        "variants, greedy decoding, scored by the default reward",
        "",
        *INTERVALS.splitlines(),
        "",
    ]
    if results.missing:
        kinds = Counter(job.kind for job in results.missing)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        lines += [
            f"**Not finished: {len(results.missing)} of "
            f"{plural(len(results.missing) + len(results.done), 'run')} ({counts}).** "
            "The tables hold the others. Missing:",
            "",
            *(f"- `{job.folder}`" for job in results.missing),
            "",
        ]
    return lines


def runs(results: Results) -> list[str]:
    """Return what runs took, and every one of them with the code that made it."""
    minutes: dict[tuple[str, str], list[float]] = {}
    for job in results.done:
        took = results.records[job.folder]["seconds"] / 60
        minutes.setdefault((job.kind, job.scenes), []).append(took)
    summary = [
        [f"{kind} {scenes}", str(len(took)), f"{median(took):.1f}", f"{sum(took):.0f}"]
        for (kind, scenes), took in minutes.items()
    ]
    rows = [
        [f"`{folder}`", f"{record['seconds'] / 60:.1f}", record["commit"], record["date"]]
        for folder, record in results.records.items()
    ]
    return [
        "## Runs",
        "",
        *markdown(["what", "runs", "minutes each, median", "minutes in all"], summary),
        "",
        "<details><summary>Every run</summary>",
        "",
        *markdown(["folder", "minutes", "commit", "date"], rows),
        "",
        "</details>",
        "",
    ]


def distinct(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Return the different values of a field, in the order they came."""
    return list(dict.fromkeys(str(record[name]) for record in records))


def hours(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the wall time of all runs, added up."""
    return f"{sum(record['seconds'] for record in records) / 3600:.2f}"
