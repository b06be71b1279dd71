"""Supervised fine-tuning on demonstrations: the cold start before reinforcement learning."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.tiny.tokenizer import INTEGER_ROLES
from dip_agents.runtime.checkpoints import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.errors import NonFiniteUpdateError
from dip_agents.runtime.logger import RunLogger
from dip_agents.runtime.memory import trim_memory
from dip_agents.runtime.random_state import seed_everything, set_rng_state
from dip_agents.runtime.resuming import check_fits, reading_state, where_to_go_on
from dip_agents.runtime.schedules import warmup_stable_decay
from dip_agents.sft.config import ENDING, SFTConfig, sigma_at
from dip_agents.sft.demonstrations import Demonstration
from dip_agents.sft.loss import (
    DenseHeads,
    SFTCounts,
    SFTLoss,
    dense_targets,
    sft_counts,
    sft_loss,
)
from dip_agents.sft.optimizer import SFTOptimizer
from dip_agents.tokens.batching import micro_batches, token_limit
from dip_env.errors import ConfigError


class SFTTrainer:
    """Learns from demonstrations, step by step, and can go on after any interruption.

    With several ranks each learns from its shard of every batch, and the gradients are summed. The
    constructor seeds all random generators with ``config.seed``, since dense heads start from
    random weights.

    Args:
        vlm: the learner; its trainable parameters change.
        demonstrations: indexable data set with ``__len__``; each worker process gets a copy.
        config: the settings.
        logger: where the metrics of the first rank go, or None.
        checkpoints: folder of the checkpoints, or None for none.
        distributed: the processes of the run; by default this one alone.

    Raises:
        ConfigError: for coordinate smoothing with another tokenizer than the tiny one, or a dense
            loss with a model that does not give its image features.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        demonstrations: Dataset[Demonstration],
        config: SFTConfig,
        *,
        logger: RunLogger | None = None,
        checkpoints: Path | str | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        """Check the settings and make optimizer and dense heads."""
        _check_model(vlm, config)
        self.vlm = vlm
        self.demonstrations = demonstrations
        self.config = config
        self.distributed = distributed or DistributedContext()
        self.logger = logger if self.distributed.is_main else None
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.step = 0
        """Finished steps."""
        seed_everything(config.seed)
        self.heads: DenseHeads | None = None
        if config.dense_weight > 0:
            width = vlm.core.config.text_config.hidden_size
            self.heads = DenseHeads(width).to(vlm.device)
        named = list(self._named_parameters())
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = SFTOptimizer(
            named, config.learning_rate, config.weight_decay, muon=config.optimizer == "muon"
        )

    def train(self, stop_at: int | None = None) -> None:
        """Run from the step after ``self.step`` to the last.

        Args:
            stop_at: step after which to return, with a checkpoint, to go on with other
                demonstrations; by default the last one.

        Raises:
            ConfigError: for a stop outside of the steps that are left.
            NonFiniteUpdateError: when a gradient is not finite.
            StorageError: when a checkpoint cannot be written.
        """
        last = self.config.steps if stop_at is None else stop_at
        first = max(1, self.step)
        if not first <= last <= self.config.steps:
            raise ConfigError(
                f"stop_at: expected {first}..{self.config.steps}, since step {self.step} is done, "
                f"got {stop_at}"
            )
        if self.logger is not None:
            self.logger.start(self.step)
        self.vlm.model.train()
        try:
            for batch in self._batches(last):
                self._train_step(batch)
                if self.step % self.config.checkpoint_interval == 0 or self.step == last:
                    self.save()
        except OSError as error:  # a full disk, for one
            error.add_note(where_to_go_on(self.checkpoints))
            raise
        self.vlm.model.eval()

    def save(self) -> Path | None:
        """Write a checkpoint of the finished steps, on the first rank, if there is a folder."""
        if self.checkpoints is None or not self.distributed.is_main:
            return None
        extra: dict[str, Any] = {} if self.heads is None else {"heads": self.heads.state_dict()}
        return save_checkpoint(
            self.checkpoints,
            self.step,
            self.vlm.state_dict(),
            self.optimizer.state_dict(),
            asdict(self.config),
            extra,
            keep=1,
        )

    def resume(self, path: Path | str | None = None) -> Checkpoint:
        """Go back to a checkpoint; call it right before ``train``.

        Args:
            path: a checkpoint, or None for the latest of this run.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: when there is none, or it is damaged or of another run.
            ConfigError: for another number of steps once the learning rate falls.
        """
        source = path or self.checkpoints
        if source is None:
            raise ConfigError("resume: expected a path or a checkpoint folder, got neither")
        found = load_checkpoint(
            source, asdict(self.config), may_differ=(*ENDING, "workers", "micro_batch_tokens")
        )
        _check_ending(found, self.config)
        check_fits(found, self.vlm.state_dict())
        with reading_state(found):
            self.optimizer.load_state_dict(found.optimizer)
            if self.heads is not None:
                self.heads.load_state_dict(found.extra["heads"])
        self.vlm.load_state_dict(found.weights)
        set_rng_state(found.rng)
        self.step = found.step
        return found

    def _train_step(self, batch: list[Demonstration]) -> None:
        """Update the weights on one batch and log it."""
        config, step = self.config, self.step + 1
        began = time.perf_counter()
        self.distributed.activity = f"step {step}"
        rate = learning_rate_at(step, config)
        self.optimizer.set_learning_rate(rate)
        sigma = sigma_at(step, config)
        losses = self._backward(batch, sigma)
        self.distributed.all_reduce_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        # The norm is the same on all ranks and not finite where any of their losses is not.
        if not bool(torch.isfinite(norm)):
            raise NonFiniteUpdateError(f"step {step}: expected a finite gradient, got norm {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        trim_memory()
        self.step = step
        metrics = self._metrics(losses) | {"sft/grad_norm": float(norm), "sft/learning_rate": rate}
        if self.logger is not None:
            self.logger.log(step, metrics | {"time/step": time.perf_counter() - began})

    def _backward(self, batch: list[Demonstration], sigma: float) -> list[SFTLoss]:
        """Add up the gradient of a batch, one micro-batch after the other."""
        config = self.config
        targets = [[] if self.heads is None else dense_targets(self.vlm, [one]) for one in batch]
        shard = sft_counts(batch, list(chain(*targets)))
        counts = SFTCounts.total(self.distributed.all_gather(shard))
        limit = token_limit(config.micro_batch_tokens, self.vlm.device.type)
        losses = []
        for rows in micro_batches([one.buffer for one in batch], limit):
            loss = sft_loss(
                self.vlm,
                [batch[row] for row in rows],
                self.heads,
                sigma,
                config.dense_weight,
                counts,
                list(chain(*(targets[row] for row in rows))),
            )
            loss.total.backward()
            losses.append(loss)
        return losses

    def _metrics(self, losses: Sequence[SFTLoss]) -> dict[str, float]:
        """Return the losses of all ranks; all must call this."""
        mine = [(loss.text, loss.dense, loss.accuracy) for loss in losses]
        parts = [part for of_rank in self.distributed.all_gather(mine) for part in of_rank]
        text, dense, accuracy = (sum(one) for one in zip(*parts, strict=True))
        return {"sft/loss": text, "sft/dense_loss": dense, "sft/token_accuracy": accuracy}

    def _batches(self, last: int) -> DataLoader[Demonstration]:
        """Return this rank's batches from the step after ``self.step`` to the last."""
        shard, workers = self.distributed.shard(self.config.batch_size), self.config.workers
        count = len(self.demonstrations)  # type: ignore[arg-type]
        return DataLoader(
            self.demonstrations,
            batch_size=len(shard),
            sampler=_DemonstrationOrder(count, self.step, replace(self.config, steps=last), shard),
            collate_fn=list,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
        )

    def _named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the trainable parameters of model and dense heads."""
        yield from (
            (name, parameter)
            for name, parameter in self.vlm.model.named_parameters()
            if parameter.requires_grad
        )
        if self.heads is not None:
            yield from self.heads.named_parameters(prefix="dense_heads")


def learning_rate_at(step: int, config: SFTConfig) -> float:
    """Return the learning rate of a step (from 1)."""
    return warmup_stable_decay(
        step, config.learning_rate, config.warmup_steps, config.decay_steps, config.steps
    )


def _check_model(vlm: VisionLanguageModel, config: SFTConfig) -> None:
    """Check that a model has what the loss needs."""
    if config.coordinate_sigma > 0 and not _has_integer_tokens(vlm):
        raise ConfigError(
            "coordinate_sigma: expected 0, since the tokenizer has no single tokens for 0..1000"
        )
    if config.dense_weight > 0 and not vlm.gives_image_features:
        raise ConfigError(
            "dense_weight: expected 0 for a model that does not give its image features, "
            f"got {config.dense_weight}"
        )


def _check_ending(found: Checkpoint, config: SFTConfig) -> None:
    """Refuse another ending once the rate has begun to fall, or would have by now."""
    there, here = ({name: one[name] for name in ENDING} for one in (found.config, asdict(config)))
    begins = min(one["steps"] - one["decay_steps"] for one in (there, here))
    if there != here and found.step > begins:
        raise ConfigError(
            f"steps, decay_steps, final_sigma: expected {tuple(there.values())}, since the "
            f"learning rate falls from step {begins} on and {found.step} are done, "
            f"got {tuple(here.values())}"
        )


class _DemonstrationOrder(Sampler[int]):
    """Indices of demonstrations from some step on, every epoch in its own order."""

    def __init__(self, count: int, start: int, config: SFTConfig, shard: range) -> None:
        self.count, self.start, self.config, self.shard = count, start, config, shard

    def __len__(self) -> int:
        return (self.config.steps - self.start) * len(self.shard)

    def __iter__(self) -> Iterator[int]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.config.steps):
            for at in (step * self.config.batch_size + index for index in self.shard):
                if at // self.count != epoch:
                    epoch = at // self.count
                    generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.count, generator=generator)
                yield int(order[at % self.count])


def _has_integer_tokens(vlm: VisionLanguageModel) -> bool:
    convert = vlm.processor.tokenizer.convert_tokens_to_ids
    return all(
        convert(f"{before}{number}") == token
        for before, ids in INTEGER_ROLES.items()
        for number, token in enumerate(ids)
    )
