"""The commands of ``dip`` that play or train a policy; the front door is ``commands``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from dip_agents.cli.main import SceneArgs, Score, run_scenes, run_score
from dip_agents.cli.parsing import (
    TINY_SFT,
    Audit,
    Command,
    Evaluate,
    Experiment,
    PlayArgs,
    Sft,
    Train,
)
from dip_agents.engines.base import new_version
from dip_agents.evaluation.audit import audit_main
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.result import print_results
from dip_agents.experiments.report import experiment_markdown, experiment_plot
from dip_agents.experiments.variations import run_experiment, variations
from dip_agents.grpo.run import evaluate_model, fine_tune, report_gain, train_grpo
from dip_agents.models.loading import load_model
from dip_agents.policies.base import Policy
from dip_agents.policies.oracle import OraclePolicy
from dip_agents.policies.scripted import GridScanPolicy, RandomPolicy
from dip_agents.policies.vlm import VLMPolicy
from dip_agents.runtime.checkpoints import check_new_run
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.optional import require_extra
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.scenes.base import SceneSource
from dip_env.scenes.transforms.augmented import AugmentedScenes
from dip_env.scenes.transforms.mixed import MixedScenes
from dip_env.scenes.transforms.stored import StoredScenes

_WATCHED = ("reward", "F1", "precision", "recall")
"""Metrics that are logged while a policy learns."""


def run(command: Command, console: Console) -> int:
    """Run one command.

    Args:
        command: its settings.
        console: where to print.

    Returns:
        The exit code.
    """
    disable_progress_bar()  # the loading of weights is no news
    if isinstance(command, Train):
        return _train(command, console)
    if isinstance(command, Sft):
        return _sft(command, console)
    if isinstance(command, Evaluate):
        return _evaluate(command, console)
    if isinstance(command, Experiment):
        return _experiment(command, console)
    if isinstance(command, Audit):
        return audit_main(
            command.source.open("val"), command.rules, command.n, command.seed, console
        )
    return run_score(command) if isinstance(command, Score) else run_scenes(command)


def _train(args: Train, console: Console) -> int:
    with DistributedContext.launched(args.rank_timeout, args.policy.device) as ranks:
        return _train_on(ranks, args, console if ranks.first else Console(quiet=True))


def _train_on(ranks: DistributedContext, args: Train, console: Console) -> int:
    if args.sampler.engine == "openai":
        raise ConfigError("engine: expected native or vllm, whose weights can learn, got openai")
    if ranks.count > 1 and args.sampler.engine != "native":
        raise ConfigError(
            f"engine: expected native with several processes, got {args.sampler.engine}, which "
            "starts processes of its own"
        )
    if args.eval_scenes:
        args.sampler.check_measuring("eval_scenes")
    elif args.grpo.eval_interval:
        raise ConfigError(
            f"eval_interval: expected 0 with eval_scenes 0, got {args.grpo.eval_interval}, and "
            "nothing to measure on"
        )
    if not args.resume:
        check_new_run(args.out / "checkpoints")  # before anything of that run is measured anew
    loaded = load_model(
        args.policy.model,
        device=args.policy.device,
        dtype=args.policy.dtype,
        lora_rank=args.lora_rank,
        seed=args.grpo.seed,
    )
    limits: dict[str, Any] = {
        "max_new_tokens": args.policy.max_new_tokens,
        "token_budget": args.policy.token_budget,
    }
    measured = limits | {"temperature": args.eval_temperature}
    train = args.source.open("train")
    # A data set without a held-out part is no reason not to train on it unmeasured.
    held_out = args.source.open(args.eval_split) if args.eval_scenes else train
    # Only the first rank measures; the others begin to play.
    indices = range(min(args.eval_scenes, len(held_out)) if ranks.first else 0)
    args.out.mkdir(parents=True, exist_ok=True)
    if not loaded.trained and args.demonstrations:
        if ranks.count > 1:
            raise ConfigError(
                "demonstrations: expected 0 with several processes, "
                f"got {args.demonstrations}; teach the model with dip sft first"
            )
        console.print(f"random weights: teaching {args.demonstrations} demonstrations first")
        config = replace(TINY_SFT, steps=max(1, args.demonstrations // TINY_SFT.batch_size))
        fine_tune(
            loaded,
            train,
            args.rules,
            config,
            args.demonstrations,
            args.out / "warm_up",
            resume=args.resume,
            console=console,
        )
    if args.gradient_checkpointing:
        loaded.vlm.checkpoint_activations()
    engine = args.sampler.open(loaded.vlm, args.rules, args.policy.token_budget)
    measured["engine"] = engine
    before = None
    if indices:
        if repr(train) == repr(held_out):
            console.print(
                f"{args.source.root} has no {args.eval_split} split: measuring on training scenes"
            )
        before = evaluate_model(
            loaded.vlm, held_out, indices, args.rules, **measured, out=args.out / "before"
        )
        print_results({"before": before}, console)

    def evaluate_now(step: int) -> dict[str, float]:
        result = evaluate_model(loaded.vlm, held_out, indices, args.rules, **measured)
        values = {name: result.metrics[name].value for name in _WATCHED}
        return {name: value for name, value in values.items() if value is not None}

    train_grpo(
        loaded,
        train,
        args.rules,
        args.grpo,
        args.out,
        engine=engine,
        evaluate=evaluate_now if args.eval_scenes else None,
        **limits,
        workers=args.workers,
        resume=args.resume,
        console=console,
        ranks=ranks,
    )
    if before is not None:
        engine.sync(loaded.vlm, new_version())
        after = evaluate_model(
            loaded.vlm, held_out, indices, args.rules, **measured, out=args.out / "after"
        )
        report_gain(before, after, args.out, console)
    console.print(f"model, logs, traces and completions are in {args.out}")
    return 0


def _sft(args: Sft, console: Console) -> int:
    with DistributedContext.launched(args.rank_timeout, args.policy.device) as ranks:
        return _sft_on(ranks, args, console if ranks.first else Console(quiet=True))


def _sft_on(ranks: DistributedContext, args: Sft, console: Console) -> int:
    loaded = load_model(
        args.policy.model,
        device=args.policy.device,
        dtype=args.policy.dtype,
        lora_rank=args.lora_rank,
        seed=args.sft.seed,
    )
    parts = [_part(args.source, text) for text in args.mix] or [(args.source, 1.0)]
    views = [(_views(args, part), weight) for part, weight in parts]
    demonstrations = views[0][0] if len(views) == 1 else MixedScenes(views)
    fine_tune(
        loaded,
        demonstrations,
        args.rules,
        args.sft,
        len(demonstrations),
        args.out,
        resume=args.resume,
        stop_at=args.stop_at,
        console=console,
        ranks=ranks,
    )
    console.print(f"the model is in {args.out / 'model'}")
    return 0


def _part(source: SceneArgs, text: str) -> tuple[SceneArgs, float]:
    """Read one ``name=weight`` of a mix; all but the name is as the source has it."""
    name, equals, weight = text.partition("=")
    try:
        share = float(weight) if equals else 1.0
    except ValueError as error:
        raise ConfigError(f"mix: expected name=weight, got {text!r}") from error
    if not 0 < share < math.inf:
        raise ConfigError(f"mix: expected a finite weight above 0, got {text!r}")
    return replace(source, scenes=name), share


def _views(args: Sft, part: SceneArgs) -> AugmentedScenes:
    source = part.open("train")
    if args.store is not None:
        source = StoredScenes(source, args.store / part.scenes if args.mix else args.store)
    return AugmentedScenes(source, args.scene_count, args.views, args.smallest_window)


def _evaluate(args: Evaluate, console: Console) -> int:
    source, policy_for = _players(args, "evaluate", args.rules)
    result = evaluate(
        policy_for(args.rules),
        source,
        range(min(args.n, len(source))),
        args.rules,
        group_size=args.group_size,
        batch_size=args.batch_size,
        out=args.out,
        seed=args.seed,
        workers=args.workers,
    )
    print_results({args.policy: result}, console)
    return 0


def _experiment(args: Experiment, console: Console) -> int:
    require_extra("matplotlib", "play")
    ways = variations(
        args.kind, args.rules, view_sizes=args.view_sizes, tiles=args.tiles, seed=args.seed
    )
    every = dict.fromkeys(way.condition.config for way in ways)
    largest = max(rules.view_size for rules in every)
    source, policy_for = _players(args, "experiment", replace(args.rules, view_size=largest))
    policies = {rules: policy_for(rules) for rules in every}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(args.kind, total=None)
        report = run_experiment(
            args.kind,
            policies.__getitem__,  # whatever has no room is known before anything is played
            source,
            range(min(args.n, len(source))),
            ways,
            seed=args.seed,
            batch_size=args.batch_size,
            workers=args.workers,
            on_batch=lambda done, total: progress.update(task, completed=done, total=total),
        )
    out = args.out or Path("runs/experiment") / args.kind
    out.mkdir(parents=True, exist_ok=True)
    words = experiment_markdown(report)
    (out / "experiment.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "experiment.md").write_text(words, encoding="utf-8")
    experiment_plot(report, out / "experiment.png")
    console.print(words, markup=False, soft_wrap=True)
    console.print(f"experiment.json, experiment.md and experiment.png are in {out}")
    return 0


def _players(
    args: PlayArgs, command: str, largest: EpisodeConfig
) -> tuple[SceneSource, Callable[[EpisodeConfig], Policy]]:
    """Open the scenes, and return who plays them under given rules, none with a larger overview."""
    if args.policy == "model":
        args.sampler.check_measuring(command)
    source = args.source.open(args.split)
    if args.policy == "oracle":
        return source, lambda rules: OraclePolicy(source, rules, **asdict(args.oracle))
    if args.policy != "model":
        return source, {"random": RandomPolicy, "grid": GridScanPolicy}[args.policy]
    vlm = load_model(args.model.model, device=args.model.device, dtype=args.model.dtype).vlm
    policy = VLMPolicy(
        args.sampler.open(vlm, largest, args.model.token_budget),
        args.temperature,
        args.model.max_new_tokens,
        args.model.token_budget,
        args.batch_size,
    )
    first = source[0] if len(source) else None

    def policy_for(rules: EpisodeConfig) -> Policy:
        if first is not None:
            policy.check_room(Episode(first, rules).observation())
        return policy

    return source, policy_for
