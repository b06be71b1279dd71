"""Updates of the weights on one batch of rollouts: micro-batches, gradients, optimizer steps."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dip_agents.grpo.batch import TrainingBatch
from dip_agents.grpo.config import GRPOConfig
from dip_agents.objectives.aggregation import rollout_weights
from dip_agents.objectives.importance import sampler_gap
from dip_agents.objectives.losses import EntropyBonus, KlPenalty, policy_loss
from dip_agents.objectives.surrogates import SurrogateInputs
from dip_agents.objectives.token_stats import TokenStats, merge
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.dtensors import gather_full
from dip_agents.runtime.errors import NonFiniteUpdateError
from dip_agents.tokens.batching import micro_batches, padded_tokens, token_limit
from dip_env.errors import DipError

if TYPE_CHECKING:
    from dip_agents.models.base import TokenLogprobs
    from dip_agents.tokens.buffer import TokenBuffer

logger = logging.getLogger(__name__)


class RolloutTooLongError(DipError, MemoryError):
    """A single rollout does not fit into memory; the weights are those before the update."""


class PolicyModel(Protocol):
    """The interface of a model that GRPO trains."""

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return logprobs, entropies and mask (B, T), with gradient."""
        ...

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return the trainable parameters, always in the same order."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the tensors a checkpoint must hold: at least all trainable ones."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Restore what ``state_dict`` returned."""
        ...


Reference = Callable[[Sequence["TokenBuffer"]], Tensor]
"""Buffers -> logprobs (B, T) of the policy to stay close to."""


class Updater:
    """Updates the weights on one batch after the other.

    When memory runs out, the limit of a micro-batch is halved for the rest of the run and the
    update begins anew: the weights have not moved yet, so the result is the same but for the order
    of the sums.

    With several ranks each runs the rollouts that it collected. The weights of tokens come
    from counts of the whole batch, so the gradients of the ranks are summed, never averaged.

    Args:
        model: the policy.
        optimizer: of its parameters.
        config: the settings.
        reference: the policy to stay close to, or None.
        distributed: the processes of the run; by default this one alone.
    """

    def __init__(
        self,
        model: PolicyModel,
        optimizer: torch.optim.Optimizer,
        config: GRPOConfig,
        reference: Reference | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        """Store the parts; the parameters are those of the optimizer."""
        self.model = model
        self.optimizer = optimizer
        self.config = config
        self.reference = reference
        self.distributed = distributed or DistributedContext()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.token_limit = token_limit(config.micro_batch_tokens, self.parameters[0].device.type)
        """Padded tokens of a micro-batch; falls when memory runs out."""
        self.moves = 0
        """How often the weights have begun to move."""

    def update(
        self, batch: TrainingBatch, learning_rate: float, entropy_weight: float = 0.0
    ) -> dict[str, float]:
        """Update the weights ``updates_per_batch`` times on one batch.

        The old logprobs are those that the first update itself computes: all its micro-batches
        run before the weights move, so they are the logprobs of the weights that the batch started
        from, at no extra cost, and the ratio of the first update is exactly 1.

        Args:
            batch: what to learn from, the same on every rank but for the pixels; when empty, the
                weights stay as they are.
            learning_rate: of these updates.
            entropy_weight: of the entropy bonus.

        Returns:
            Plain numbers by log key ``train/<name>``: loss, tokens, ratio statistics and clip
            fractions (over all updates), entropy, ref_kl (with a reference), grad_norm (mean over
            updates, before clipping), the gap to the sampler (see ``SamplerGap``, first update),
            behaviour_missing (tokens without behaviour logprobs), learning_rate, updates.

        Raises:
            NonFiniteUpdateError: when a loss or gradient is not finite; the step is not taken.
            RolloutTooLongError: when a single rollout does not fit into memory.
        """
        counts = batch.counts
        metrics = {"train/learning_rate": learning_rate, "train/tokens": float(counts.tokens)}
        if not batch.buffers:
            return metrics | {"train/updates": 0.0}
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        weights = rollout_weights(
            batch.lengths, counts, self.config.aggregation, self.config.constant_length
        )
        task = _BatchUpdate(batch, weights, entropy_weight)
        losses: list[float] = []
        norms: list[float] = []
        for _ in range(self.config.updates_per_batch):
            task.passes.append(self._accumulate(task))
            if not self.distributed.sharded:  # else the backward passes have summed them
                self.distributed.all_reduce_gradients(self.parameters)
            clipped = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            norms.append(float(gather_full(clipped)))
            losses.append(self._finite_loss(batch, task.passes[-1], norms[-1]))
            # Before the weights move: if a rank is lost here, the last step can be saved.
            stats, gaps, missing = self._gathered_stats(task.passes)
            self.moves += 1
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        numbers = stats.metrics() | gaps.metrics()
        numbers["behaviour_missing"] = missing
        numbers["clip_fraction"] = numbers["clip_fraction_low"] + numbers["clip_fraction_high"]
        numbers["loss"] = sum(losses) / len(losses)
        numbers["grad_norm"] = sum(norms) / len(norms)
        numbers["updates"] = float(len(task.passes))
        return metrics | {f"train/{name}": value for name, value in numbers.items()}

    def _gathered_stats(self, passes: Sequence[_Pass]) -> tuple[TokenStats, TokenStats, float]:
        """Return token statistics, gap to the sampler and its missing tokens, of all ranks."""
        stats = [part.cpu() for done in passes for part in done.stats]
        gaps = [part.cpu() for part in passes[0].gaps]
        # Merged before sending: one part per rank that had rollouts.
        mine = ([merge(stats)], [merge(gaps)]) if stats else ([], [])
        parts = self.distributed.all_gather((*mine, sum(map(float, passes[0].missing))))
        return (
            merge([part for of_rank, _, _ in parts for part in of_rank]),
            merge([part for _, of_rank, _ in parts for part in of_rank]),
            sum(missing for _, _, missing in parts),
        )

    def _accumulate(self, task: _BatchUpdate) -> _Pass:
        """Sum the gradient over all micro-batches, with smaller ones when memory runs out."""
        batch = task.batch
        while True:
            splits = self._split(batch, self.token_limit)
            self.optimizer.zero_grad(set_to_none=True)
            done = _Pass(splits)
            if self.distributed.sharded:
                for _ in range(max(self.distributed.all_gather(len(splits))) - len(splits)):
                    self._run_dummy(task)
            for rows in splits:
                try:
                    self._add(task, done, rows)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    reason = str(error).partition("\n")[0]
                    if self.distributed.sharded:
                        # The others are in the middle of this micro-batch and wait for its layers.
                        raise RolloutTooLongError(
                            f"expected {len(rows)} rollouts of up to {self._longest(batch, rows)} "
                            f"tokens to fit into memory, got: {reason}; a smaller "
                            "micro_batch_tokens may help"
                        ) from error
                    break
            else:
                return done
            # Outside the handler: while it lasts, the error keeps the failed forward pass alive.
            del done
            if task.first:
                task.fixed.clear()
            self.optimizer.zero_grad(set_to_none=True)
            self._shrink(batch, splits, rows, reason)

    @property
    def _shares_prefix(self) -> bool:
        return bool(getattr(self.model, "shares_prefix", False))

    def _split(self, batch: TrainingBatch, limit: int) -> list[list[int]]:
        """Return the rows of each micro-batch of this process."""
        local = batch.local_rows
        parts = micro_batches(
            [batch.buffers[row] for row in local],
            limit,
            self.config.micro_batch_size,
            self._shares_prefix,
        )
        return [[local[at] for at in part] for part in parts]

    def _run_dummy(self, task: _BatchUpdate) -> None:
        """Run a rollout with weight 0, since sharded layers run on all ranks or on none."""
        batch = task.batch
        rows = batch.local_rows
        shortest = min((batch.buffers[row] for row in rows), key=len) if rows else batch.dummy
        if shortest is None:
            raise RuntimeError(
                "expected a rollout with policy tokens on every rank, got none on this one"
            )
        now = self.model.token_logprobs([shortest], self.config.temperature)
        if task.first and self.reference is not None:
            with torch.no_grad():
                self.reference([shortest])
        (now.logprobs.sum() * 0.0).backward()

    @staticmethod
    def _longest(batch: TrainingBatch, rows: Sequence[int]) -> int:
        return max(len(batch.buffers[row]) for row in rows)

    def _add(self, task: _BatchUpdate, done: _Pass, rows: Sequence[int]) -> None:
        """Add one micro-batch to the gradient and to the statistics of the pass."""
        config = self.config
        buffers = [task.batch.buffers[row] for row in rows]
        now = self.model.token_logprobs(buffers, config.temperature)
        device, width = now.logprobs.device, now.logprobs.shape[1]
        old, ref = self._old_and_reference(task, rows, now.logprobs)
        behaviour = _stack([torch.tensor(b.logprobs) for b in buffers], width).to(device)
        gap = sampler_gap(old, behaviour, now.mask, config.importance_cap)
        advantages = task.batch.advantages_of(rows, width).to(device)
        result = policy_loss(
            SurrogateInputs(now.logprobs, old, advantages, now.mask, behaviour),
            task.weights[list(rows)].to(device),
            kind=config.loss,
            clips=config.clips,
            importance=gap.weights,
            kl=None if ref is None else KlPenalty(ref, config.kl_weight, config.kl_kind),
            entropy=EntropyBonus(now.entropy, task.entropy_weight),
        )
        result.loss.backward()
        done.losses.append(result.loss.detach())
        done.stats.append(result.stats)
        done.gaps.append(gap.stats)
        done.missing.append(gap.missing)

    def _old_and_reference(
        self, task: _BatchUpdate, rows: Sequence[int], logprobs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logprobs (B, T) of the old policy and of the reference, if there is one."""
        if not task.first:
            width = logprobs.shape[1]
            old = _stack([task.fixed[row].old for row in rows], width)
            refs = [found for row in rows if (found := task.fixed[row].ref) is not None]
            return old, _stack(refs, width) if refs else None
        old, ref = logprobs.detach(), None
        if self.reference is not None:
            with torch.no_grad():
                ref = self.reference([task.batch.buffers[row] for row in rows]).detach()
        if self.config.updates_per_batch > 1:
            for at, row in enumerate(rows):
                task.fixed[row] = _Fixed(old[at], None if ref is None else ref[at])
        return old, ref

    def _shrink(
        self, batch: TrainingBatch, splits: list[list[int]], rows: Sequence[int], reason: str
    ) -> None:
        """Halve the limit until the micro-batches change, and free memory."""
        longest = self._longest(batch, rows)
        padded = padded_tokens([batch.buffers[row] for row in rows], self._shares_prefix)
        limit = min(self.token_limit, padded)
        again = splits
        while again == splits and limit > 1 and len(rows) > 1:
            limit //= 2
            again = self._split(batch, limit)
        if again == splits:
            scene, member = batch.origins[rows[0]]
            raise RolloutTooLongError(
                f"expected a single rollout to fit into memory, got {longest} tokens (scene "
                f"{scene}, member {member}) and: {reason}; a smaller token_budget or view_size, "
                "LoRA, or bfloat16 weights may help"
            )
        logger.warning(
            "out of memory with %d rollouts of up to %d tokens: micro_batch_tokens is %d from now "
            "on, and this update begins anew",
            len(rows),
            longest,
            limit,
        )
        self.token_limit = limit
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _finite_loss(self, batch: TrainingBatch, done: _Pass, norm: float) -> float:
        """Return the loss of all ranks, or stop before a bad gradient reaches the weights."""
        losses = [float(loss) for loss in done.losses]
        wrong = [
            batch.origins[row]
            for rows, loss in zip(done.splits, losses, strict=True)
            if not math.isfinite(loss)
            for row in rows
        ]
        # All ranks must see the same, or some would stop and the others wait for them.
        gathered = self.distributed.all_gather((losses, wrong))
        total = sum(loss for of_rank, _ in gathered for loss in of_rank)
        bad = [origin for _, of_rank in gathered for origin in of_rank]
        if not bad and math.isfinite(norm):
            return total
        self.optimizer.zero_grad(set_to_none=True)
        raise NonFiniteUpdateError(
            f"expected a finite loss and gradient, got loss {total} and gradient norm {norm}"
            + (f"; the loss is bad for (scene, member) {bad}" if bad else "")
            + "; a lower learning rate or float32 weights may help"
        )


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that memory ran out, on a GPU or on the CPU."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "DefaultCPUAllocator" in text
    )


class _Fixed(NamedTuple):
    """Logprobs of one rollout that stay the same over the updates on its batch, each (T,)."""

    old: Tensor
    ref: Tensor | None


@dataclass(eq=False)
class _Pass:
    """The losses and statistics of the micro-batches of one update."""

    splits: list[list[int]]
    losses: list[Tensor] = field(default_factory=list)
    stats: list[TokenStats] = field(default_factory=list)
    gaps: list[TokenStats] = field(default_factory=list)
    missing: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class _BatchUpdate:
    """The updates on one batch.

    Args:
        batch: the batch.
        weights: (B,) of its rollouts.
        entropy_weight: of the entropy bonus.
        fixed: logprobs of each row that stay the same, known after the first pass.
        passes: those that are done.
    """

    batch: TrainingBatch
    weights: Tensor
    entropy_weight: float
    fixed: dict[int, _Fixed] = field(default_factory=dict)
    passes: list[_Pass] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """True during the first pass, whose logprobs are those of the old policy."""
        return not self.passes


def _stack(rows: Sequence[Tensor], width: int) -> Tensor:
    """Return rows of any lengths as (B, width), cut or filled with 0."""
    table = pad_sequence(list(rows), batch_first=True)[:, :width]
    return nn.functional.pad(table, (0, width - table.shape[1]))
