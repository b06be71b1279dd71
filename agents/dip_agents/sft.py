"""Supervised fine-tuning on demonstrations: the cold start before reinforcement learning."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dip_agents.checkpoints import (
    check_random_state,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.generic_vlm import GenericVLM
from dip_agents.lessons import Lesson
from dip_agents.logs import RunLogger
from dip_agents.random_state import seed_everything, set_rng_state
from dip_agents.tiny.teaching import DenseHead, coordinate_mask, dense_target, smoothed_loss
from dip_agents.tiny.tokenizer import MAX_INTEGER
from dip_agents.vlm import VLM
from dip_env.errors import ConfigError


@dataclass(frozen=True)
class SFTConfig:
    """How long and how fast to learn from demonstrations."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Demonstrations per step."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule; 1e-5 suits pretrained models."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradient norm above which the gradient is scaled down."""
    coordinate_sigma: float = 0.0
    """Width in integers of smoothed coordinate targets; needs the tiny tokenizer."""
    dense_weight: float = 0.0
    """Weight of the dense auxiliary loss on the vision tokens (for models from scratch)."""
    workers: int = 1
    """Processes that draw scenes and play demonstrations; 0 does it in this one."""
    seed: int = 0
    """Of the order of lessons."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected above 0, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class SFTLoss:
    """Losses of one batch; ``total`` carries the gradient.

    Args:
        total: what is minimised.
        text: mean plain or smoothed cross-entropy per policy token.
        dense: mean dense loss per vision token, 0 when off.
        accuracy: share of policy tokens whose most likely prediction is the demonstrated one.
    """

    total: Tensor
    text: float
    dense: float
    accuracy: float


def sft_loss(
    vlm: VLM, lessons: list[Lesson], head: DenseHead | None, sigma: float, dense_weight: float
) -> SFTLoss:
    """Compute the loss of a batch of lessons.

    Args:
        vlm: the learner.
        lessons: the batch.
        head: of the dense loss, or None.
        sigma: width of smoothed coordinates, 0 for plain cross-entropy.
        dense_weight: weight of the dense loss.

    Returns:
        The losses.
    """
    buffers = [lesson.buffer for lesson in lessons]
    features = vlm.features_of(image for buffer in buffers for image in buffer.images)
    hidden = vlm.hidden(buffers, features)
    ids, mask = vlm.targets(buffers)
    logp = vlm.log_softmax(hidden[:, :-1][mask[:, 1:]], 1.0)
    targets = ids[mask]
    if sigma > 0:
        flags = torch.zeros(mask.shape, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            flags[row, : len(buffer)] = torch.tensor(coordinate_mask(buffer, vlm))
        per_token = smoothed_loss(logp, targets, flags.to(mask.device)[mask], sigma)
    else:
        per_token = torch.nn.functional.nll_loss(logp, targets, reduction="none")
    text = per_token.mean()
    dense = text.new_zeros(())
    if head is not None:
        cell = vlm.chat.patch * vlm.chat.merge
        pairs = [
            (features[image.key][0], dense_target(boxes, image, cell))
            for lesson in lessons
            for image, boxes in zip(lesson.buffer.images, lesson.boxes, strict=True)
        ]
        dense = head.loss([embeds for embeds, _ in pairs], [target for _, target in pairs])
    accuracy = (logp.argmax(-1) == targets).float().mean()
    return SFTLoss(text + dense_weight * dense, text.item(), dense.item(), accuracy.item())


def train_sft(
    vlm: VLM,
    lessons: Dataset[Lesson],
    config: SFTConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    logger: RunLogger | None = None,
) -> None:
    """Teach a model from demonstrations.

    Args:
        vlm: the learner; its trainable parameters change.
        lessons: indexable data set with ``__len__``; each worker process gets a copy.
        config: the settings.
        out: folder for checkpoints, or None for none.
        resume: go on from the newest checkpoint in ``out`` when there is one.
        logger: where the numbers go.

    Raises:
        ConfigError: for coordinate smoothing with another tokenizer than the tiny one, or a dense
            loss with a model that does not give its image features.
        FloatingPointError: when the loss is not finite.
    """
    if config.coordinate_sigma > 0 and not _has_integer_tokens(vlm):
        raise ConfigError(
            "coordinate_sigma: expected 0, since the tokenizer has no single tokens for 0..1000"
        )
    if config.dense_weight > 0 and isinstance(vlm, GenericVLM):
        raise ConfigError(
            "dense_weight: expected 0 for a model that keeps the features of its images to itself, "
            f"got {config.dense_weight}"
        )
    seed_everything(config.seed)
    head = None
    if config.dense_weight > 0:
        head = DenseHead(vlm.core.config.text_config.hidden_size).to(vlm.device)
    parameters = [*vlm.trainable_parameters(), *(head.parameters() if head else ())]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )
    start = 0
    folder = None if out is None else out / "checkpoints"
    path = latest_checkpoint(folder) if folder is not None and resume else None
    if path is not None:
        found = load_checkpoint(path, asdict(config))
        check_random_state(found)
        vlm.load_state_dict(found.weights)
        optimizer.load_state_dict(found.optimizer)
        if head is not None:
            head.load_state_dict(found.extra["head"])
        set_rng_state(found.rng)
        start = found.step
    if logger is not None:
        logger.start(start)
    batches = DataLoader(
        lessons,
        batch_size=config.batch_size,
        sampler=_LessonOrder(len(lessons), start, config),  # type: ignore[arg-type]
        collate_fn=list,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        prefetch_factor=4 if config.workers else None,
    )
    vlm.model.train()
    for step, batch in enumerate(batches, start=start + 1):
        began = time.perf_counter()
        rate = config.learning_rate * _schedule(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = sft_loss(vlm, batch, head, config.coordinate_sigma, config.dense_weight)
        if not bool(torch.isfinite(loss.total)):
            raise FloatingPointError(f"step {step}: expected a finite loss, got {loss.total}")
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if logger is not None:
            numbers = {
                "sft/loss": loss.text,
                "sft/dense_loss": loss.dense,
                "sft/token_accuracy": loss.accuracy,
                "sft/grad_norm": float(norm),
                "sft/learning_rate": rate,
                "time/step": time.perf_counter() - began,
            }
            logger.log(step, numbers)
        if folder is not None and (step % config.checkpoint_every == 0 or step == config.steps):
            extra: dict[str, Any] = {} if head is None else {"head": head.state_dict()}
            save_checkpoint(
                folder,
                step,
                vlm.state_dict(),
                optimizer.state_dict(),
                asdict(config),
                extra,
                keep=1,
            )
    vlm.model.eval()


class _LessonOrder(Sampler[int]):
    """Lesson numbers from some step on, every epoch in its own order."""

    def __init__(self, count: int, start: int, config: SFTConfig) -> None:
        self.count, self.start, self.config = count, start, config

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.config.batch_size

    def __iter__(self) -> Iterator[int]:
        first = self.start * self.config.batch_size
        epoch, order = -1, torch.empty(0)
        for at in range(first, first + len(self)):
            if at // self.count != epoch:
                epoch = at // self.count
                generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                order = torch.randperm(self.count, generator=generator)
            yield int(order[at % self.count])


def _schedule(step: int, config: SFTConfig) -> float:
    """Return the share of the peak rate: linear warm-up, then cosine to a twentieth."""
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def _has_integer_tokens(vlm: VLM) -> bool:
    ids = vlm.processor.tokenizer.convert_tokens_to_ids([str(i) for i in range(MAX_INTEGER + 1)])
    return list(ids) == list(range(MAX_INTEGER + 1))
