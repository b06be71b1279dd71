"""``dip evaluate``: measure a model or a scripted policy on held-out scenes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dip_agents.cli.arguments import HEADINGS, PlayArgs, check_at_least, played_model
from dip_agents.cli.run_folder import (
    EVALUATION,
    HEADLINE,
    clear_evaluation,
    package_versions,
    recorded,
    try_folder,
)
from dip_agents.cli.settings import Resolved
from dip_env.errors import ConfigError

EXAMPLES = (
    "dip evaluate --scenes crowd",
    "dip evaluate --policy oracle --miss-rate 0.2 --scenes crowd --n 32",
    "dip evaluate --model runs/train/model --scenes easy --out runs/easy",
    "dip evaluate --engine openai --server http://127.0.0.1:8000 --server-model M",
    "dip evaluate --scenes crowd --samples 8 --temperature 0.7",
)


@dataclass(frozen=True)
class Settings(PlayArgs):
    """Measure a model or a scripted policy on held-out scenes."""

    n: int = 256
    """Scenes, from the first on; at most those there are."""
    group_size: int = 1
    """Rollouts of each scene; from 3 on the look term reads the siblings, unless --ambiguity says
    annotation."""
    samples: int = 1
    """Sampled answers of each scene whose agreement gives the boxes scores: adds AP, MR^-2, JI and
    F1 of their consensus. Needs a temperature above 0; they are rollouts as of --group-size."""
    out: Path | None = None
    """Folder for metrics.json, detections.json, truth.json and traces."""
    overwrite: bool = False
    """Replace an evaluation that is in that folder."""
    verbose: bool = False
    """Print every metric."""
    json: bool = False
    """Print one JSON object on standard output; progress goes to standard error."""

    HEADINGS = HEADINGS
    USUAL = (
        *("model", "scenes", "root", "split", "n", "policy", "out", "overwrite", "group_size"),
        "samples",
        *("temperature", "max_looks", "engine", "seed", "verbose", "json"),
    )

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings that fit the model."""
        model = played_model(given)
        return cls(model=model.args(), rules=model.rules)

    def __post_init__(self) -> None:
        """Check at once what needs no model and no scene.

        Raises:
            ConfigError: for numbers that cannot be, or a folder with another evaluation.
        """
        check_at_least(self, n=1, group_size=1, samples=1, batch_size=1)
        if self.samples > 1 and self.group_size not in (1, self.samples):
            raise ConfigError(
                f"samples: expected the group_size or 1, got {self.samples} with a group_size of "
                f"{self.group_size}"
            )
        if self.samples > 1 and self.policy == "model" and self.temperature <= 0:
            raise ConfigError(
                f"samples: expected 1 with greedy decoding, got {self.samples}, which would all be "
                "the same; give a --temperature such as 0.7"
            )


def run(resolved: Resolved[Settings]) -> int:
    """Evaluate.

    Args:
        resolved: the settings.

    Returns:
        The exit code.

    Raises:
        ConfigError: for settings that cannot work, or a folder that holds an evaluation.
    """
    from dip_agents.cli.output import make_console, progress, say
    from dip_agents.cli.policies import policy_for
    from dip_agents.cli.tables import consensus_lines, result_lines
    from dip_agents.evaluation.consensus import score_consensus
    from dip_agents.evaluation.evaluator import evaluate
    from dip_agents.evaluation.files import write_consensus
    from dip_agents.evaluation.result import print_results

    args = resolved.settings
    console = make_console(errors=args.json)
    if args.out is not None:
        try_folder(args.out)
        _check_room(args.out, args.overwrite)
    source = args.source.open(args.split)
    model = args.model.model or args.sampler.server_model
    record = nullcontext() if args.out is None else recorded(args.out, "evaluate", resolved)
    with record as kept:
        policy = policy_for(args, "evaluate", args.rules, source, console)(args.rules)
        if args.out is not None:
            clear_evaluation(args.out)
        with progress(console, f"measuring {args.policy}") as on_batch:
            result = evaluate(
                policy,
                source,
                range(min(args.n, len(source))),
                args.rules,
                group_size=max(args.group_size, args.samples),
                batch_size=args.batch_size,
                out=args.out,
                seed=args.seed,
                workers=args.workers,
                about={
                    "policy": args.policy,
                    "model": model if args.policy == "model" else None,
                    "scenes": args.source.scenes,
                    "split": args.split,
                    "versions": package_versions(),
                },
                on_batch=on_batch,
            )
        agreed = None
        if args.samples > 1:
            agreed = score_consensus(result.score.truth, result.score.answers)
            if args.out is not None:
                write_consensus(args.out, agreed, result.score.truth)
        if kept is not None:
            kept.headline = {name: result.metrics[name].value for name in HEADLINE}
    if args.verbose:
        print_results({args.policy: result}, console)
    name = model if args.policy == "model" else args.policy
    say(console, *result_lines(f"{name} on {args.source.scenes}, {result.n} scenes", result))
    if agreed is not None:
        say(console, "", *consensus_lines(agreed))
    if args.json:
        found = result.to_json() | ({"consensus": agreed.to_json()} if agreed else {})
        print(json.dumps(found, allow_nan=False, indent=2))
    if args.out is not None:
        say(console, f"metrics, detections and traces: {args.out}")
        say(console, f"beside another: {shlex.join(['dip', 'compare', str(args.out)])} OTHER")
    else:
        say(
            console,
            "--out FOLDER keeps metrics, detections and traces; --verbose prints all metrics",
        )
    return 0


def _check_room(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds an evaluation, unless that may go."""
    there = [out / name for name in EVALUATION if (out / name).exists()]
    if there and not overwrite:
        raise ConfigError(
            f"out: expected a folder without an evaluation, got {out} with {there[0].name}; "
            "--overwrite replaces it"
        )
