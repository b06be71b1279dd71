"""``dip experiment``: change one thing about looking step by step, and write a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.cli.arguments import HEADINGS, PlayArgs, SceneArgs, check_at_least, played_model
from dip_agents.cli.settings import Resolved
from dip_agents.experiments.kinds import ExperimentKind
from dip_env.metrics.intervals import Interval

if TYPE_CHECKING:
    from dip_agents.experiments import ExperimentReport

EXAMPLES = (
    "dip experiment look-budget --scenes crowd --n 64",
    "dip experiment controls",
    "dip experiment magnification --scenes far",
    "dip experiment coordinates --model FOLDER",
)


@dataclass(frozen=True)
class Settings(PlayArgs):
    """Change one thing about looking step by step, and write a table and a plot."""

    kind: ExperimentKind = "look-budget"
    """look-budget: fewer looks, fewer and smaller regions. controls: random looks, blank crops and
    the like. magnification: looks at oracle and at random tiles, enlarged more and more.
    coordinates: what printed numbers mean. resolution: how much the overview shows."""
    n: int = 64
    """Scenes, from the first on; at most those there are."""
    view_sizes: tuple[int, ...] = ()
    """Longest sides of the overview for resolution, for models that take any; without them it stays
    as large as it is and loses details."""
    tiles: bool = False
    """Let the oracle of controls look at tiles, as the bundled model was trained to; that of
    magnification always does."""
    out: Path | None = None
    """Folder for experiment.json, experiment.md and experiment.png; runs/experiment/KIND by
    default."""
    json: bool = False
    """Print one JSON object on standard output; progress goes to standard error."""

    HEADINGS = HEADINGS
    POSITIONAL = ("kind",)
    USUAL = (
        *("kind", "model", "scenes", "root", "n", "policy", "out", "view_sizes", "tiles", "engine"),
        *("seed", "json"),
    )

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings that fit the model."""
        model = played_model(given)
        return cls(
            source=SceneArgs(scenes="crowd"), model=model.args(), rules=model.rules,
            tiles=model.small,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Check at once what needs no model and no scene.

        Raises:
            ConfigError: for numbers that cannot be.
        """
        check_at_least(self, n=1, batch_size=1)


def run(resolved: Resolved[Settings]) -> int:
    """Run an experiment.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    from dip_agents.cli.output import make_console, progress, say
    from dip_agents.cli.policies import policy_for
    from dip_agents.cli.run_folder import recorded
    from dip_agents.experiments import (
        experiment_markdown,
        experiment_plot,
        run_experiment,
        variations,
    )
    from dip_agents.runtime.optional import require_extra

    require_extra("matplotlib", "play")
    args = resolved.settings
    console = make_console(errors=args.json)
    ways = variations(
        args.kind, args.rules, view_sizes=args.view_sizes, tiles=args.tiles, seed=args.seed
    )
    every = dict.fromkeys(way.condition.config for way in ways)
    largest = max(rules.view_size for rules in every)
    source = args.source.open(args.split)
    out = args.out or Path("runs/experiment") / args.kind
    with recorded(out, "experiment", resolved):
        rules = replace(args.rules, view_size=largest)
        who = policy_for(args, "experiment", rules, source, console)
        policies = {rules: who(rules) for rules in every}  # before anything is measured
        with progress(console, args.kind) as on_batch:
            report = run_experiment(
                args.kind,
                policies.__getitem__,
                source,
                range(min(args.n, len(source))),
                ways,
                seed=args.seed,
                batch_size=args.batch_size,
                workers=args.workers,
                on_batch=on_batch,
            )
        (out / "experiment.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
        (out / "experiment.md").write_text(experiment_markdown(report), encoding="utf-8")
        experiment_plot(report, out / "experiment.png")
    say(console, *report_lines(report))
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    say(console, f"all metrics and the plot: {out / 'experiment.md'}, {out / 'experiment.png'}")
    return 0


def report_lines(report: ExperimentReport) -> list[str]:
    """Return the F1 of every condition, and its change, as columns that fit 80 characters.

    Args:
        report: of the experiment.
    """
    from dip_agents.cli.output import columns
    from dip_agents.cli.tables import with_interval

    missing = Interval(None, None, None)
    rows: list[tuple[str, ...]] = [
        (f"F1, {report.n} scenes", "mean [95 % CI]", f"change to {report.reference}")
    ]
    for name, condition in report.conditions.items():
        change = condition.against_reference
        value = with_interval(condition.metrics.get("F1", missing))
        gain = "" if change is None else with_interval(change.get("F1", missing), sign=True)
        rows.append((name, value, gain))
    left_out = [f"left out: {what}: {why}" for what, why in report.left_out.items()]
    return [*columns(rows, dict.fromkeys(range(1, len(rows)), 2)), *left_out]
