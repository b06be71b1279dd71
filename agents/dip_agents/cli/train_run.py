"""One run of ``dip train``, step by step: check, load, measure, train, measure again, report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from dip_agents.cli.compare import comparison_lines
from dip_agents.cli.output import OnDone, make_console, progress, say
from dip_agents.cli.resume import checkpoint_to_go_on_from, refuse_other_run
from dip_agents.cli.run_folder import (
    HEADLINE,
    RunRecord,
    clear_evaluation,
    recorded,
    try_folder,
)
from dip_agents.cli.settings import Resolved
from dip_agents.cli.tables import gain_lines
from dip_agents.cli.train_settings import Settings
from dip_agents.engines.base import Engine, new_version
from dip_agents.engines.choose import open_engine
from dip_agents.evaluation.before_after import (
    MIN_PEOPLE,
    draw_before_and_after,
    load_episode,
    median_scene,
)
from dip_agents.evaluation.compare import compare_runs
from dip_agents.evaluation.model import evaluate_model, write_gain
from dip_agents.evaluation.result import EvalResult, paired_gain, print_results
from dip_agents.grpo.run import RolloutLimits, train_grpo
from dip_agents.models.loading import LoadedModel, load_model
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.run import train_sft
from dip_env.errors import ConfigError, DipError
from dip_env.scenes.base import SceneSource

WATCHED = ("reward", "F1", "precision", "recall", "look_coverage")
"""Metrics that are logged while a policy learns."""
LOOKS_PICTURE = "looks.png"
"""One held-out scene before and after training, in the folder of the run."""


class TrainingRun:
    """A run of ``dip train`` on this process.

    Args:
        resolved: the settings.
        distributed: the processes of the run.
        console: where to print.
    """

    def __init__(
        self, resolved: Resolved[Settings], distributed: DistributedContext, console: Console
    ) -> None:
        """Store the settings; nothing is loaded yet."""
        self.args, self.distributed, self.console = resolved.settings, distributed, console
        self.result: dict[str, Any] | None = None
        """What ``--json`` prints, on the first process of a finished run."""
        self.resume: Path | bool = False
        """The checkpoint to go on from, True for the newest, if there is one."""
        self.before: EvalResult | None = None
        self.after: EvalResult | None = None

    @classmethod
    def launch(cls, resolved: Resolved[Settings], command: str) -> TrainingRun:
        """Train with all processes that a launcher started, and keep a record in the folder.

        Args:
            resolved: the settings.
            command: its name.

        Returns:
            The finished run.

        Raises:
            ConfigError: for settings that cannot work.
        """
        disable_progress_bar()  # the loading of weights is no news
        args = resolved.settings
        with DistributedContext.launched(args.rank_timeout, args.policy.device) as distributed:
            quiet = Console(quiet=True)
            run = cls(
                resolved,
                distributed,
                make_console(errors=args.json) if distributed.is_main else quiet,
            )
            run.check()
            with recorded(args.out, command, resolved, write=distributed.is_main) as record:
                run.train(record)
        return run

    def check(self) -> None:
        """Find out what cannot work before anything slow is begun.

        Raises:
            ConfigError: naming the setting.
        """
        args, distributed = self.args, self.distributed
        if distributed.world_size > 1 and args.sampler.engine != "native":
            raise ConfigError(
                f"engine: expected native with several processes, got {args.sampler.engine}, which "
                "starts processes of its own"
            )
        if (
            distributed.world_size > 1
            and args.policy.model == "tiny-untrained"
            and args.demonstrations
        ):
            raise ConfigError(
                f"demonstrations: expected 0 with several processes, got {args.demonstrations}; "
                "fine-tune the model with dip sft first"
            )
        if args.grpo.scenes_per_step > len(self.scenes):
            raise ConfigError(
                f"scenes_per_step: expected at most the {len(self.scenes)} scenes there are, "
                f"got {args.grpo.scenes_per_step}"
            )
        if distributed.is_main:
            try_folder(args.out)
        if args.resumes:
            self.resume = checkpoint_to_go_on_from(
                args.out, args.grpo.steps, args.resume_from, self.console
            )
        else:
            refuse_other_run(args.out)
        _ = self.held_out

    @cached_property
    def scenes(self) -> SceneSource:
        """The scenes to train on."""
        return self.args.source.open("train")

    @cached_property
    def held_out(self) -> SceneSource:
        """The scenes to measure on; a source without such a part may be trained on unmeasured."""
        return self.args.source.open(self.args.eval_split) if self.args.n else self.scenes

    def train(self, record: RunRecord) -> None:
        """Do everything.

        Args:
            record: of the run; gets the headline numbers.
        """
        args = self.args
        say(self.console, f"loading {args.policy.model} ...")
        loaded = load_model(
            args.policy.model,
            device=args.policy.device,
            dtype=args.policy.dtype,
            lora_rank=args.policy.lora_rank,
            freeze_vision=args.policy.freeze_vision,
            seed=args.grpo.seed,
        )
        record.device = str(loaded.vlm.device)
        if not loaded.trained and args.demonstrations:
            self._cold_start(loaded)
        if args.gradient_checkpointing:
            loaded.vlm.checkpoint_activations()
        engine = open_engine(args.sampler, loaded.vlm, args.rules, args.policy.token_budget)
        self.before = self._measure(loaded, engine, "before")
        train_grpo(
            loaded,
            self.scenes,
            args.rules,
            args.grpo,
            args.out,
            engine=engine,
            evaluate=(lambda step: self._watch(loaded, engine)) if args.n else None,
            limits=RolloutLimits(args.policy.max_new_tokens, args.policy.token_budget),
            workers=args.workers,
            resume=self.resume,
            console=self.console,
            distributed=self.distributed,
        )
        if self.before is not None:
            engine.sync(loaded.vlm, new_version())
            self.after = self._measure(loaded, engine, "after")
        self._report(record)

    def _cold_start(self, loaded: LoadedModel) -> None:
        """Fine-tune random weights on demonstrations before GRPO."""
        from dip_agents.cli.sft import TINY_SFT

        args = self.args
        say(self.console, f"random weights: {args.demonstrations} demonstrations first")
        config: SFTConfig = replace(
            TINY_SFT, steps=max(1, args.demonstrations // TINY_SFT.batch_size)
        )
        train_sft(
            loaded,
            self.scenes,
            args.rules,
            config,
            args.demonstrations,
            args.out / "warm_up",
            resume=args.resumes,
            console=self.console,
        )

    def _measure(self, loaded: LoadedModel, engine: Engine, name: str) -> EvalResult | None:
        """Measure the model on held-out scenes, on the first rank only."""
        args = self.args
        if not args.n or not self.distributed.is_main:
            return None
        if name == "before" and repr(self.scenes) == repr(self.held_out):
            say(
                self.console,
                f"{args.source.root or args.source.scenes} has no {args.eval_split} split: "
                "measuring on training scenes",
            )
        clear_evaluation(args.out / name)  # of an earlier session, which would be mixed in
        with progress(self.console, f"measuring {name}") as on_batch:
            return self._evaluate(loaded, engine, args.out / name, on_batch)

    def _watch(self, loaded: LoadedModel, engine: Engine) -> dict[str, float]:
        """Measure the model in the middle of training."""
        result = self._evaluate(loaded, engine)
        values = {name: result.metrics[name].value for name in WATCHED}
        return {name: value for name, value in values.items() if value is not None}

    def _evaluate(
        self,
        loaded: LoadedModel,
        engine: Engine,
        out: Path | None = None,
        on_batch: OnDone | None = None,
    ) -> EvalResult:
        args = self.args
        return evaluate_model(
            loaded.vlm,
            self.held_out,
            range(min(args.n, len(self.held_out))),
            args.rules,
            max_new_tokens=args.policy.max_new_tokens,
            token_budget=args.policy.token_budget,
            temperature=args.eval_temperature,
            engine=engine,
            out=out,
            on_batch=on_batch,
        )

    def _report(self, record: RunRecord) -> None:
        """Print the few numbers that matter, where the files are, and what to do next."""
        args, console = self.args, self.console
        picture: list[str] = []
        if self.before is not None and self.after is not None:
            self.result = write_gain(self.before, self.after, args.out)
            record.headline = headline(self.before, self.after)
            if args.verbose:
                print_results({"before": self.before, "after": self.after}, console)
            title = f"{args.source.scenes}, {self.after.n} held-out scenes"
            say(console, "", *gain_lines(title, self.before, self.after))
            picture = self._draw_looks(self.before, self.after)
        elif self.distributed.is_main:
            self.result = {"out": str(args.out)}
        say(
            console,
            "",
            f"model, logs, traces and completions: {args.out}",
            *picture,
            f"curves:    {shlex.join(['tensorboard', '--logdir', str(args.out)])}",
            "elsewhere: "
            + shlex.join(["dip", "evaluate", "--model", str(args.out / "model")])
            + " --scenes crowd",
        )

    def _draw_looks(self, before: EvalResult, after: EvalResult) -> list[str]:
        """Draw one held-out scene before and after; return the line that names the picture."""
        args = self.args
        path = args.out / LOOKS_PICTURE
        path.unlink(missing_ok=True)  # of an earlier session
        if not args.rules.max_looks:
            return []
        if (chosen := median_scene(before, after)) is None:
            return [f"no picture of its looks: no scene holds {MIN_PEOPLE} people or more"]
        try:
            was, now = (
                load_episode(args.out / name, chosen.index, self.held_out)
                for name in ("before", "after")
            )
            draw_before_and_after(was, now, chosen, args.source.scenes).save(path)
        except (DipError, OSError) as error:  # the run is done: a picture is not worth its failure
            return [f"no picture of its looks: {error}"]
        return [f"its looks, before and after: {path}"]


def headline(before: EvalResult, after: EvalResult) -> dict[str, Any]:
    """Return the numbers that ``run.json`` holds of a gain: value before, after, and the change.

    Args:
        before: of the model that training started from.
        after: of the trained one.
    """
    gain = paired_gain(before, after)
    return {
        name: {
            "before": before.metrics[name].value,
            "after": after.metrics[name].value,
            "change": gain[name].value,
            "change_interval": [gain[name].low, gain[name].high],
        }
        for name in HEADLINE
    }


def report_seeds(runs: Sequence[TrainingRun], args: Settings) -> dict[str, Any] | None:
    """Print what all seeds came to together, and keep it as ``seeds.json``.

    Args:
        runs: one for each seed.
        args: the settings they share.

    Returns:
        What ``--json`` prints; None for all processes but the first.
    """
    if not all(run.before and run.after for run in runs):
        return None if runs[0].result is None else {"out": str(args.out), "seeds": args.seeds}
    groups: Mapping[str, list[EvalResult]] = {
        "before": [run.before for run in runs if run.before],
        "after": [run.after for run in runs if run.after],
    }
    comparison = compare_runs(groups)
    found: dict[str, Any] = comparison.to_json()
    (args.out / "seeds.json").write_text(json.dumps(found, indent=2) + "\n")
    console = make_console(errors=args.json)
    say(console, "", f"{args.source.scenes}, seeds {' '.join(map(str, args.seeds))}")
    say(console, *comparison_lines(comparison))
    return found
