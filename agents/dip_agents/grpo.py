"""Group-relative policy optimisation: the loop from rollouts to better weights.

The loop knows a model that gives logprobs and a function that gives rollouts. It knows no
environment, no processor and no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dip_agents.advantages import Advantages
from dip_agents.checkpoints import (
    Checkpoint,
    CheckpointError,
    check_weights,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.credit import credit
from dip_agents.entropy_target import EntropyTarget
from dip_agents.grpo_config import GRPOConfig
from dip_agents.logs import PhaseTimer, RunLogger
from dip_agents.random_state import seed_everything, set_rng_state
from dip_agents.rollout_metrics import environment_times, rollout_metrics
from dip_agents.training_batch import TrainingBatch, training_batch
from dip_agents.update import NonFiniteUpdateError, PolicyModel, Reference, Updater
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_agents.rollouts import RolloutGroup


class GRPOTrainer:
    """Learns from groups of rollouts, step by step, and can go on after any interruption.

    Args:
        model: the policy. Keep dropout off, or sampler and trainer speak of different policies.
        collect: step (from 1) -> P groups of G rollouts of the model as it is now.
        config: the settings.
        collect_more: step and round (from 1) -> P groups of further scenes, for a step with
            groups of equal rewards; ``equal_groups="resample"`` needs it.
        reference: buffers -> logprobs (B, T) of the policy to stay close to (LoRA off, or a frozen
            copy), at the same temperature. When given, the KL to it is logged; ``kl_weight`` says
            how much it counts.
        evaluate: step -> numbers, logged as ``eval/<name>`` each ``eval_interval`` steps.
        logger: where the numbers go, or None.
        checkpoints: folder of the checkpoints, or None for none.
        extra_state: what else to keep in a checkpoint; ``resume`` hands it back.

    Raises:
        ConfigError: for a setting without the function it needs.
    """

    def __init__(
        self,
        model: PolicyModel,
        collect: Callable[[int], Sequence[RolloutGroup]],
        config: GRPOConfig,
        *,
        collect_more: Callable[[int, int], Sequence[RolloutGroup]] | None = None,
        reference: Reference | None = None,
        evaluate: Callable[[int], Mapping[str, float]] | None = None,
        logger: RunLogger | None = None,
        checkpoints: Path | str | None = None,
        extra_state: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Make the optimizer; nothing runs yet."""
        if config.kl_weight and reference is None:
            raise ConfigError(f"kl_weight: expected 0 without a reference, got {config.kl_weight}")
        if config.equal_groups == "resample" and collect_more is None:
            raise ConfigError("equal_groups: expected 'drop' without collect_more, got 'resample'")
        self.model = model
        self.collect = collect
        self.collect_more = collect_more
        self.config = config
        self.evaluate = evaluate
        self.logger = logger
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.extra_state = extra_state
        self.parameters = list(model.trainable_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self.updater = Updater(model, self.optimizer, config, reference)
        self.entropy_target = EntropyTarget(
            config.entropy_target, config.entropy_delta, config.entropy_weight
        )
        self.step = 0
        """Finished steps."""
        self._timer = PhaseTimer()

    def train(self) -> None:
        """Run from the step after ``self.step`` to the last.

        A new run seeds all random generators with ``config.seed``; a resumed one goes on with
        those it had.

        Raises:
            CheckpointError: for a new run in a folder that holds the checkpoints of another.
            NonFiniteUpdateError: when an update is not finite.
        """
        config = self.config
        if self.step == 0:
            self._refuse_foreign_checkpoints()
            seed_everything(config.seed)
        if self.logger is not None:
            self.logger.start(self.step)
        for step in range(self.step + 1, config.steps + 1):
            with self._timer.phase("collect"):
                groups, advantages = self.play(step)
            batch = training_batch(
                groups, advantages, config.mask_truncated, config.scenes_per_step
            )
            metrics = rollout_metrics(groups, advantages) | batch.dropped
            with self._timer.phase("update"):
                metrics |= self.update(batch, config.learning_rate_at(step))
            if self.evaluate is not None and _due(step, config.eval_interval):
                with self._timer.phase("evaluate"):
                    results = self.evaluate(step)
                metrics |= {f"eval/{name}": value for name, value in results.items()}
            self.step = step
            if self.logger is not None:
                with self._timer.phase("completions"):
                    self.logger.completions(step, groups, advantages)
                times = self._timer.take()
                times |= environment_times(groups, times["time/collect"])
                self.logger.log(step, metrics | _peak_memory() | times)
            if _due(step, config.checkpoint_interval) or step == config.steps:
                with self._timer.phase("checkpoint"):  # counted with the next step's phases
                    self.save()

    def play(self, step: int) -> tuple[list[RolloutGroup], Advantages]:
        """Collect rollouts and compare them.

        With ``equal_groups="resample"`` further rounds are played until there are
        ``scenes_per_step`` mixed groups, or ``max_resamples`` rounds are over (DAPO, 2503.14476).

        Args:
            step: from 1.

        Returns:
            All groups that were played, equal ones included, and their advantages.
        """
        config = self.config
        groups = self._checked(self.collect(step))
        advantages = self._credit(groups)
        if config.equal_groups == "resample" and self.collect_more is not None:
            for round_ in range(1, config.max_resamples + 1):
                if int(advantages.mixed.sum()) >= config.scenes_per_step:
                    break
                groups += self._checked(self.collect_more(step, round_))
                advantages = self._credit(groups)
        return groups, advantages

    def update(self, batch: TrainingBatch, learning_rate: float) -> dict[str, float]:
        """Move the weights along one batch, see ``Updater.update``.

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
            raise NonFiniteUpdateError(f"step {self.step + 1}: {error}") from error
        if "train/entropy" in metrics:
            metrics["train/entropy_weight"] = weight
            self.entropy_target.observe(metrics["train/entropy"])
        return metrics

    def save(self) -> Path | None:
        """Write a checkpoint of the finished steps, where there is a folder for them."""
        if self.checkpoints is None:
            return None
        return save_checkpoint(
            self.checkpoints,
            self.step,
            self.model.state_dict(),
            self.optimizer.state_dict(),
            asdict(self.config),
            {
                "caller": dict(self.extra_state()),
                "entropy_target": self.entropy_target.state(),
                "token_limit": self.updater.token_limit,
            },
            self.config.keep_checkpoints,
        )

    def resume(self, path: Path | str | None = None) -> Checkpoint:
        """Go back to a checkpoint; call it right before ``train``.

        Args:
            path: a checkpoint, or None for the latest of this run.

        Returns:
            The checkpoint, with the caller's own ``extra``.

        Raises:
            CheckpointError: when there is none, or it is damaged or of another run; the model is
                then untouched.
        """
        source = path or self.checkpoints
        if source is None:
            raise CheckpointError("resume: expected a path or a checkpoint folder, got neither")
        found = load_checkpoint(source, asdict(self.config), self.config.changeable)
        check_weights(found.weights, self.model.state_dict())
        try:
            self.optimizer.load_state_dict(found.optimizer)
        except ValueError as error:
            raise CheckpointError(f"{found.path}: expected this optimizer, got: {error}") from error
        self.model.load_state_dict(found.weights)
        self.step = found.step
        self.entropy_target.restore(found.extra["entropy_target"])
        if found.config["micro_batch_tokens"] == self.config.micro_batch_tokens:
            # Memory may have run out before; another limit would add up in another order.
            self.updater.token_limit = found.extra["token_limit"]
        set_rng_state(found.rng)  # last: whatever ran before may have drawn numbers
        return replace(found, extra=found.extra["caller"])

    def _credit(self, groups: Sequence[RolloutGroup]) -> Advantages:
        config = self.config
        return credit(groups, config.advantage, config.turn_weight, config.turn_discount)

    def _checked(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        sizes = [len(group.rollouts) for group in groups]
        wanted = [self.config.group_size] * self.config.scenes_per_step
        if sizes != wanted:
            raise ValueError(f"collect: expected groups of sizes {wanted}, got {sizes}")
        return list(groups)

    def _refuse_foreign_checkpoints(self) -> None:
        found = self.checkpoints and latest_checkpoint(self.checkpoints)
        if found:
            raise CheckpointError(
                f"{found}: expected an empty folder for a new run; resume, or choose another"
            )


def _peak_memory() -> dict[str, float]:
    """Return the largest use of GPU memory since the last call, where there is a GPU."""
    if not torch.cuda.is_available():
        return {}
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return {"memory/peak_gib": peak}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
