"""``dip train``: improve a model by GRPO and measure the gain on held-out scenes."""

from __future__ import annotations

from dataclasses import replace

from dip_agents.cli.settings import Resolved
from dip_agents.cli.train_settings import Settings, saved_run

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
    from dip_agents.cli.train_run import TrainingRun, report_seeds

    args = resolved.settings
    if not args.seeds:
        TrainingRun.launch(resolved, "train")
        return 0
    done: list[TrainingRun] = []
    for seed in args.seeds:
        out = args.out / f"seed_{seed}"
        if args.resume:
            saved_run(out, resolved.options, {**resolved.file, **resolved.typed, "seed": seed})
        one = replace(args, grpo=replace(args.grpo, seed=seed), out=out, seeds=())
        done.append(TrainingRun.launch(replace(resolved, settings=one), "train"))
    report_seeds(done, args)
    return 0
