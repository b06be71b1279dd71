"""Group-relative policy optimisation: the training loop.

The loop needs a model that gives logprobs and a function that collects rollouts; it is independent
of environment, processor and prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dip_agents.engines.base import EngineError
from dip_agents.grpo.batch import TrainingBatch, training_batch
from dip_agents.grpo.completion_rows import completion_rows
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.credit import compute_advantages
from dip_agents.grpo.gather import all_gather_groups
from dip_agents.grpo.metrics import environment_times, rollout_metrics
from dip_agents.grpo.updater import PolicyModel, Reference, RolloutTooLongError, Updater
from dip_agents.models.weights import fingerprint
from dip_agents.objectives.advantages import Advantages
from dip_agents.objectives.entropy import EntropyTarget
from dip_agents.runtime.checkpoints import (
    Checkpoint,
    check_new_run,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.runtime.distributed import DistributedContext, LostRankError
from dip_agents.runtime.dtensors import gather_full, shard_optimizer_state
from dip_agents.runtime.errors import CheckpointError, NonFiniteUpdateError, StorageError
from dip_agents.runtime.interrupts import InterruptHandler, StopRequestedError
from dip_agents.runtime.logger import PhaseTimer, RunLogger
from dip_agents.runtime.memory import trim_memory
from dip_agents.runtime.optimizers import make_adamw
from dip_agents.runtime.random_state import rng_state, seed_everything, set_rng_state
from dip_agents.runtime.resuming import check_fits, reading_state, where_to_go_on
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_agents.grpo.records import RolloutGroup


GRACE_PERIOD = 20.0
"""Seconds from a signal to the end of a process that is blocked; launchers kill after 30."""

_RESCUED = (
    StopRequestedError,
    LostRankError,
    NonFiniteUpdateError,
    RolloutTooLongError,
    EngineError,
)
"""Errors after which the last finished step is saved."""


class GRPOTrainer:
    """Learns from groups of rollouts, step by step, and can go on after any interruption.

    Args:
        model: the policy. Keep dropout off, or sampler and trainer have different policies.
        collect: step (from 1) and round -> P groups of G rollouts of the model as it is now; with
            several ranks each returns its shard, and together they are the P groups. Round 0 is
            that of every step; further rounds on further scenes follow where
            ``zero_variance_groups`` is "resample".
        config: the settings.
        reference: buffers -> logprobs (B, T) of the policy to stay close to (LoRA off, or a frozen
            copy), at the same temperature. When given, the KL to it is logged; ``kl_weight`` is
            its weight in the loss.
        evaluate: step -> numbers, logged as ``eval/<name>`` each ``eval_interval`` steps, of the
            model after that step; called on every rank, and the first rank's result is logged.
        logger: where the metrics go, or None; only the first rank's is used.
        checkpoints: folder of the checkpoints, which all ranks can read, or None for none.
        distributed: the processes of the run; by default this one alone.

    Raises:
        ConfigError: for a setting without the function it needs.
    """

    def __init__(
        self,
        model: PolicyModel,
        collect: Callable[[int, int], Sequence[RolloutGroup]],
        config: GRPOConfig,
        *,
        reference: Reference | None = None,
        evaluate: Callable[[int], Mapping[str, float]] | None = None,
        logger: RunLogger | None = None,
        checkpoints: Path | str | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        """Check the parts and make the optimizer."""
        if config.kl_weight and reference is None:
            raise ConfigError(f"kl_weight: expected 0 without a reference, got {config.kl_weight}")
        if config.eval_interval and evaluate is None:
            raise ConfigError(
                f"eval_interval: expected 0 without evaluate, got {config.eval_interval}"
            )
        self.model = model
        self.collect = collect
        self.config = config
        self.evaluate = evaluate
        self.distributed = distributed or DistributedContext()
        self.logger = logger if self.distributed.is_main else None
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.parameters = list(model.trainable_parameters())
        self.optimizer = make_adamw(self.parameters, config.learning_rate, config.weight_decay)
        self.updater = Updater(model, self.optimizer, config, reference, self.distributed)
        self.entropy_target = EntropyTarget(
            config.entropy_target, config.entropy_delta, config.entropy_weight
        )
        self.step = 0
        """Finished steps."""
        self._saved = 0
        self._timer = PhaseTimer()
        self._interrupts = InterruptHandler(
            None if self.distributed.world_size == 1 else GRACE_PERIOD
        )

    def train(self) -> None:
        """Run from the step after ``self.step`` to the last.

        A new run seeds all random generators with ``config.seed``; a resumed one goes on with
        those it had. On Ctrl-C, SIGTERM and the errors below that may come in any step, the last
        finished step is saved where one process has all of it; a note on the error names the
        checkpoint to go on from.

        Raises:
            CheckpointError: for a new run in a folder that holds the checkpoints of another.
            NonFiniteUpdateError: when an update is not finite.
            RolloutTooLongError: when a single rollout does not fit into memory.
            EngineError: when the engine that samples cannot go on.
            StopRequestedError: after a signal.
            LostRankError: when another rank is lost.
            StorageError: when a checkpoint cannot be written.
            RanksDifferError: when ranks have other settings or weights than the first.
        """
        config = self.config
        if self.step == 0:
            if self.checkpoints:
                check_new_run(self.checkpoints)
            seed_everything(config.seed)
        self.distributed.check_same("settings", asdict(config))
        if self.logger is not None:
            self.logger.start(self.step)
        self._finished = self._state_now()
        with self._interrupts:
            try:
                for step in range(self.step + 1, config.steps + 1):
                    with self.distributed.watch_peers():
                        self._train_step(step)
                    self._interrupts.check()
            except _RESCUED as error:
                error.add_note(self._rescue())
                raise
            except OSError as error:  # a full disk, for one
                error.add_note(where_to_go_on(self.checkpoints))
                raise

    def _train_step(self, step: int) -> None:
        config = self.config
        groups, advantages = self.collect_groups(step)
        batch = training_batch(groups, advantages, config.mask_truncated, config.scenes_per_step)
        metrics = rollout_metrics(groups, advantages) | batch.dropped
        with self._phase(step, "update"):
            metrics |= self.update(batch, config.learning_rate_at(step))
            trim_memory()
        if self.evaluate and _due(step, config.eval_interval):
            with self._phase(step, "evaluate", interruptible=True):
                results = self.evaluate(step)
            metrics |= {f"eval/{name}": value for name, value in results.items()}
        self.step = step
        if self.logger is not None:
            with self._phase(step, "completions"):
                rows = completion_rows(step, groups, advantages.values)
                self.logger.completions(step, rows)
            times = self._timer.take()
            local = [group for group in groups if group.local]
            times |= environment_times(local, times["time/collect"])
            self.logger.log(step, metrics | _peak_memory() | times)
        self._finished = self._state_now()
        if _due(step, config.checkpoint_interval) or step == config.steps:
            with self._phase(step, "checkpoint"):  # counted with the next step's phases
                self.save()

    def collect_groups(self, step: int) -> tuple[list[RolloutGroup], Advantages]:
        """Collect rollouts and compute their advantages.

        With ``zero_variance_groups="resample"`` further rounds are collected until there are
        ``scenes_per_step`` informative groups, or ``max_resamples`` rounds are over (DAPO,
        2503.14476).

        Args:
            step: from 1.

        Returns:
            All groups of all ranks, zero-variance groups included, and their advantages.
        """
        config = self.config
        groups = self._collected(step, 0)
        advantages = self._advantages(groups)
        rounds = config.max_resamples if config.zero_variance_groups == "resample" else 0
        for round_ in range(1, rounds + 1):
            if int(advantages.informative.sum()) >= config.scenes_per_step:
                break
            groups += self._collected(step, round_)
            advantages = self._advantages(groups)
        return groups, advantages

    def update(self, batch: TrainingBatch, learning_rate: float) -> dict[str, float]:
        """Update the weights on one batch, see ``Updater.update``.

        Args:
            batch: what to learn from; when empty, the weights stay as they are.
            learning_rate: of its updates.

        Returns:
            Plain numbers by log key ``train/<name>``.

        Raises:
            NonFiniteUpdateError: when a loss or gradient is not finite; the step is not taken.
            RolloutTooLongError: when a single rollout does not fit into memory.
        """
        weight = self.entropy_target.weight
        try:
            metrics = self.updater.update(batch, learning_rate, weight)
        except NonFiniteUpdateError as error:
            error.add_note(f"at step {self.step + 1}")
            raise
        if "train/entropy" in metrics:
            metrics["train/entropy_weight"] = weight
            self.entropy_target.observe(metrics["train/entropy"])
        return metrics

    def save(self) -> Path | None:
        """Write a checkpoint of the finished steps, where there is a folder for them.

        All ranks must call this; the first writes. Tensors are written unsharded, so that a run
        can go on with any number of ranks.

        Raises:
            RanksDifferError: when ranks that should hold the same weights do not.
        """
        if self.checkpoints is None:
            return None
        weights = self.model.state_dict()
        optimizer = gather_full(self.optimizer.state_dict())
        if self.distributed.world_size > 1 and not self.distributed.sharded:
            self.distributed.check_same("weights", fingerprint(weights))
        return (
            self._write(weights, optimizer, self._state_now()) if self.distributed.is_main else None
        )

    def _write(
        self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any], state: _State
    ) -> Path:
        assert self.checkpoints is not None
        self._saved = self.step
        return save_checkpoint(
            self.checkpoints,
            self.step,
            weights,
            optimizer,
            asdict(self.config),
            state.extra,
            self.config.keep_checkpoints,
        )

    def resume(self, path: Path | str | None = None) -> Checkpoint:
        """Go back to a checkpoint; call it right before ``train``.

        Args:
            path: a checkpoint, or None for the latest of this run.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: when there is none, it is damaged or of another run, or its random
                state needs a GPU that is not there; the model is then unchanged.
        """
        source = path or self.checkpoints
        if source is None:
            raise CheckpointError("resume: expected a path or a checkpoint folder, got neither")
        if path is None:  # all ranks take the latest of the first
            source = self.distributed.all_gather(latest_checkpoint(source))[0] or source
        found = load_checkpoint(source, asdict(self.config), self.config.changeable)
        check_fits(found, self.model.state_dict())
        with reading_state(found):
            state = shard_optimizer_state(found.optimizer, self.parameters)
            self.optimizer.load_state_dict(state)
            self.entropy_target.restore(found.extra["entropy_target"])
            if found.config["micro_batch_tokens"] == self.config.micro_batch_tokens:
                # Memory may have run out before; another limit would add up in another order.
                self.updater.token_limit = found.extra["token_limit"]
        self.model.load_state_dict(found.weights)
        self.step = self._saved = found.step
        set_rng_state(found.rng)  # last: whatever ran before may have drawn numbers
        return found

    @contextmanager
    def _phase(self, step: int, name: str, interruptible: bool = False) -> Iterator[None]:
        """Measure a phase, and name it for the messages of signals and lost ranks."""
        self.distributed.activity = self._interrupts.activity = f"step {step}, {name}"
        if self.distributed.world_size > 1:
            self._interrupts.exit_message = (
                f"rank {self.distributed.rank} of {self.distributed.world_size} received a "
                f"signal and is blocked at {self.distributed.activity}: another rank may be lost; "
                f"{where_to_go_on(self.checkpoints)}"
            )
        stop = self._interrupts.interruptible() if interruptible else nullcontext()
        with self._timer.phase(name), stop:
            yield

    def _collected(self, step: int, round_: int) -> list[RolloutGroup]:
        """Collect a round and return the groups of all ranks."""
        with self._phase(step, "collect", interruptible=True):
            groups = self.collect(step, round_)
            trim_memory()
        if self.distributed.world_size > 1:
            with self._phase(step, "wait", interruptible=True):
                groups = all_gather_groups(groups, self.distributed)
        return self._checked(groups)

    def _state_now(self) -> _State:
        extra = {
            "entropy_target": self.entropy_target.state(),
            "token_limit": self.updater.token_limit,
        }
        return _State(rng_state(), extra, self.updater.moves)

    def _rescue(self) -> str:
        """Save the last finished step, if this process has all of it, and name the checkpoint."""
        state = self._finished
        alone = self.distributed.is_main and not self.distributed.sharded
        unmoved = self.updater.moves == state.moves and self.step > self._saved
        if self.checkpoints is not None and alone and unmoved:
            set_rng_state(state.rng)
            try:
                self._write(self.model.state_dict(), self.optimizer.state_dict(), state)
            except StorageError as error:
                return f"{error}; {where_to_go_on(self.checkpoints)}"
        return where_to_go_on(self.checkpoints)

    def _advantages(self, groups: Sequence[RolloutGroup]) -> Advantages:
        config = self.config
        return compute_advantages(
            groups,
            config.advantage,
            config.turn_weight,
            config.turn_discount,
            config.look_credit,
            config.region_weight,
        )

    def _checked(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        sizes = [len(group.rollouts) for group in groups]
        wanted = [self.config.group_size] * self.config.scenes_per_step
        if sizes != wanted:
            raise ValueError(f"collect: expected groups of sizes {wanted}, got {sizes}")
        return list(groups)


@dataclass(frozen=True)
class _State:
    """The contents of a checkpoint beside weights and optimizer, at the end of a step.

    Args:
        rng: of this process.
        extra: the state of the trainer.
        moves: number of updates until then.
    """

    rng: dict[str, Any]
    extra: dict[str, Any]
    moves: int


def _peak_memory() -> dict[str, float]:
    """Return the largest use of GPU memory since the last call, where there is a GPU."""
    if not torch.cuda.is_available():
        return {}
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return {"memory/peak_gib": peak}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
