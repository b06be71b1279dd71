"""Group-relative policy optimisation: the loop from rollouts to better weights.

The loop knows a model that gives logprobs and a function that gives rollouts. It knows no
environment, no processor and no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from dip_agents.advantages import group_advantages
from dip_agents.batches import micro_batches
from dip_agents.checkpoints import (
    Checkpoint,
    CheckpointError,
    check_weights,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.grpo_config import GRPOConfig
from dip_agents.logs import PhaseTimer, RunLogger
from dip_agents.losses import TokenStats, clipped_policy_loss
from dip_agents.random_state import seed_everything, set_rng_state
from dip_agents.rollout_metrics import rollout_metrics
from dip_agents.training_batch import TrainingBatch, training_batch
from dip_env.errors import ConfigError, DipError

if TYPE_CHECKING:
    from dip_agents.rollouts import RolloutGroup
    from dip_agents.token_buffer import TokenBuffer
    from dip_agents.vlm import TokenLogprobs


class NonFiniteUpdateError(DipError, ArithmeticError):
    """A loss or gradient is NaN or infinite; the weights are those before the update."""


class PolicyModel(Protocol):
    """What the trainer asks of a model."""

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return logprobs, entropies and mask (B, T), with gradient."""
        ...

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return what learns, in an order that stays."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the tensors a checkpoint must hold: at least all that learn."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Take back what ``state_dict`` returned."""
        ...


class GRPOTrainer:
    """Learns from groups of rollouts, step by step, and can go on after any interruption.

    Args:
        model: the policy. Keep dropout off, or sampler and trainer speak of different policies.
        collect: step (from 1) -> P groups of G rollouts of the model as it is now.
        config: the settings.
        reference: buffers -> logprobs (B, T) of the policy to stay close to (LoRA off, or a frozen
            copy), at the same temperature. When given, the KL to it is logged; ``kl_weight`` says
            how much it counts.
        evaluate: step -> numbers, logged as ``eval/<name>`` each ``eval_interval`` steps.
        logger: where the numbers go, or None.
        checkpoints: folder of the checkpoints, or None for none.
        extra_state: what else to keep in a checkpoint; ``resume`` hands it back.

    Raises:
        ConfigError: for a ``kl_weight`` without a reference.
    """

    def __init__(
        self,
        model: PolicyModel,
        collect: Callable[[int], Sequence[RolloutGroup]],
        config: GRPOConfig,
        *,
        reference: Callable[[Sequence[TokenBuffer]], Tensor] | None = None,
        evaluate: Callable[[int], Mapping[str, float]] | None = None,
        logger: RunLogger | None = None,
        checkpoints: Path | str | None = None,
        extra_state: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Make the optimizer; nothing runs yet."""
        if config.kl_weight and reference is None:
            raise ConfigError(f"kl_weight: expected 0 without a reference, got {config.kl_weight}")
        self.model = model
        self.collect = collect
        self.config = config
        self.reference = reference
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
                groups = self.collect(step)
            rewards_P_G = self._rewards(groups)
            advantages = group_advantages(rewards_P_G, config.advantage)
            batch = training_batch(groups, advantages, config.mask_truncated)
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
                self.logger.log(step, metrics | _peak_memory() | self._timer.take())
            if _due(step, config.checkpoint_interval) or step == config.steps:
                with self._timer.phase("checkpoint"):  # counted with the next step's phases
                    self.save()

    def update(self, batch: TrainingBatch, learning_rate: float) -> dict[str, float]:
        """Move the weights ``updates_per_batch`` times along the gradient of one batch.

        The old logprobs are those that the first update itself computes: all its micro-batches
        run before the weights move, so they are the logprobs of the weights that the batch started
        from, at no extra cost, and the ratio of the first update is exactly 1.

        Args:
            batch: what to learn from; when empty, the weights stay as they are.
            learning_rate: of these updates.

        Returns:
            Plain numbers by log key ``train/<name>``: loss, tokens, ratio statistics and clip
            fractions (over all updates), entropy, ref_kl (with a reference), grad_norm (mean over
            updates, before clipping), behaviour_gap (mean and max of |sampler - trainer| logprob,
            first update), learning_rate, updates.

        Raises:
            NonFiniteUpdateError: when a loss or gradient is not finite; the step is not taken.
        """
        metrics = {"train/learning_rate": learning_rate, "train/tokens": float(batch.tokens)}
        if not batch.buffers:
            return metrics | {"train/updates": 0.0}
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        splits = micro_batches(
            batch.buffers, self.config.micro_batch_tokens, self.config.micro_batch_size
        )
        fixed: list[_FixedLogprobs] = []  # one per micro-batch, filled by the first update
        stats: TokenStats | None = None
        losses, norms = [], []
        for _ in range(self.config.updates_per_batch):
            self.optimizer.zero_grad(set_to_none=True)
            partial_losses = []
            for number, rows in enumerate(splits):
                buffers = [batch.buffers[row] for row in rows]
                now = self.model.token_logprobs(buffers, self.config.temperature)
                if number == len(fixed):
                    fixed.append(self._fix(buffers, now))
                result = clipped_policy_loss(
                    now.logprobs,
                    fixed[number].old,
                    batch.advantages[rows].to(now.logprobs.device),
                    now.mask,
                    batch.tokens,
                    clip_low=self.config.clip_low,
                    clip_high=self.config.clip_high,
                    ref_logprobs=fixed[number].ref,
                    kl_weight=self.config.kl_weight,
                    kl_kind=self.config.kl_kind,
                    entropy=now.entropy,
                    entropy_weight=self.config.entropy_weight,
                )
                result.loss.backward()
                partial_losses.append(result.loss.detach())
                stats = result.stats if stats is None else stats.merged(result.stats)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self._check_finite(batch, splits, torch.stack(partial_losses), norm)
            self.optimizer.step()
            losses.append(sum(map(float, partial_losses)))
            norms.append(float(norm))
        self.optimizer.zero_grad(set_to_none=True)
        gap = fixed[0].gap
        for one in fixed[1:]:
            gap = gap.merged(one.gap)
        assert stats is not None  # there is at least one micro-batch
        numbers = stats.metrics() | gap.metrics()
        numbers["clip_fraction"] = numbers["clip_fraction_low"] + numbers["clip_fraction_high"]
        numbers["loss"] = sum(losses) / len(losses)
        numbers["grad_norm"] = sum(norms) / len(norms)
        numbers["updates"] = float(len(losses))
        return metrics | {f"train/{name}": value for name, value in numbers.items()}

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
            self.extra_state(),
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
        set_rng_state(found.rng)  # last: whatever ran before may have drawn numbers
        return found

    def _rewards(self, groups: Sequence[RolloutGroup]) -> Tensor:
        sizes = [len(group.rollouts) for group in groups]
        wanted = [self.config.group_size] * self.config.scenes_per_step
        if sizes != wanted:
            raise ValueError(f"collect: expected groups of sizes {wanted}, got {sizes}")
        return torch.tensor(
            [[rollout.reward for rollout in group.rollouts] for group in groups],
            dtype=torch.float64,
        )

    def _fix(self, buffers: Sequence[TokenBuffer], now: TokenLogprobs) -> _FixedLogprobs:
        old = now.logprobs.detach()
        sampled = torch.zeros_like(old)
        for row, buffer in enumerate(buffers):
            sampled[row, : len(buffer.ids)] = torch.tensor(buffer.logprobs)
        difference = (sampled - old).abs()
        gap = TokenStats.of(
            now.mask, {"behaviour_gap": difference}, {"behaviour_gap_max": difference}
        )
        ref = None
        if self.reference is not None:
            with torch.no_grad():
                ref = self.reference(buffers).detach()
        return _FixedLogprobs(old, ref, gap)

    def _check_finite(
        self, batch: TrainingBatch, splits: list[list[int]], losses: Tensor, norm: Tensor
    ) -> None:
        """Stop before a bad gradient reaches the weights, and say where it came from."""
        good = torch.isfinite(losses)
        if bool(good.all()) and bool(torch.isfinite(norm)):
            return
        self.optimizer.zero_grad(set_to_none=True)
        bad = [
            batch.origins[row]
            for rows, ok in zip(splits, good, strict=True)
            if not ok
            for row in rows
        ]
        raise NonFiniteUpdateError(
            f"step {self.step + 1}: expected a finite loss and gradient, got loss "
            f"{float(losses.sum())} and gradient norm {float(norm)}"
            + (f"; the loss is bad for (scene, member) {bad}" if bad else "")
            + "; a lower learning rate or float32 weights may help"
        )

    def _refuse_foreign_checkpoints(self) -> None:
        found = self.checkpoints and latest_checkpoint(self.checkpoints)
        if found:
            raise CheckpointError(
                f"{found}: expected an empty folder for a new run; resume, or choose another"
            )


@dataclass(frozen=True, eq=False)
class _FixedLogprobs:
    """What stays the same over the updates on one micro-batch."""

    old: Tensor
    ref: Tensor | None
    gap: TokenStats


def _peak_memory() -> dict[str, float]:
    """Return the largest use of GPU memory since the last call, where there is a GPU."""
    if not torch.cuda.is_available():
        return {}
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return {"memory/peak_gib": peak}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
