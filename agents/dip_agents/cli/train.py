"""``dip train``: improve a model by GRPO and measure the gain on held-out scenes."""

from __future__ import annotations

import json
from dataclasses import replace

from dip_agents.cli.settings import Resolved
from dip_agents.cli.train_settings import Settings, seed_folder

EXAMPLES = (
    "dip train",
    "dip train --model Qwen/Qwen2.5-VL-3B-Instruct --lora-rank 16 \\\n"
    "    --scenes crowdhuman --root data/CrowdHuman",
    "dip train --config runs/train/config.toml --seed 1",
)


def run(resolved: Resolved[Settings]) -> int:
    """Train once, or once for each seed.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    from dip_agents.cli.output import make_console, say_libraries_load

    args = resolved.settings
    say_libraries_load(make_console(errors=args.json))
    from dip_agents.cli.train_run import TrainingRun, report_seeds

    done: list[TrainingRun] = []
    for seed in args.seeds:
        out = seed_folder(args.out, seed)
        one = replace(args, grpo=replace(args.grpo, seed=seed), out=out, seeds=())
        done.append(TrainingRun.launch(replace(resolved, settings=one), "train"))
    if args.seeds:
        result = report_seeds(done, args)
    else:
        result = TrainingRun.launch(resolved, "train").result
    if args.json and result is not None:
        print(json.dumps(result, indent=2))
    return 0
