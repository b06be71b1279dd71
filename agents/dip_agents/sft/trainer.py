"""Supervised fine-tuning on demonstrations: the cold start before reinforcement learning."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, JOINED
from dip_agents.runtime.checkpoints import (
    Checkpoint,
    check_random_state,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import RunLogger
from dip_agents.runtime.random_state import seed_everything, set_rng_state
from dip_agents.sft.config import ENDING, SFTConfig, learning_rate_share, sigma_at
from dip_agents.sft.demonstrations import Demonstration
from dip_agents.sft.dense import (
    DenseHead,
    DenseTarget,
    coordinate_mask,
    dense_target,
    smoothed_loss,
    stacked,
)
from dip_agents.sft.optimizer import SFTOptimizer
from dip_env.errors import ConfigError

EDGE_WEIGHT = 0.25
"""Of the edges' cross-entropy in the dense loss, which is some ten times that of the flags."""
_JOINED_IDS = slice(INTEGER_ROLES[","].start, INTEGER_ROLES[","].start + JOINED)
"""Most coordinates of an answer are said in this role."""


@dataclass(frozen=True, eq=False)
class SFTLoss:
    """Losses of one batch, or of one rank's share of it; ``total`` carries the gradient.

    Args:
        total: what is minimised; those of all ranks add up to the batch's.
        text: plain or smoothed cross-entropy per policy token of the batch.
        dense: dense loss, 0 when off.
        accuracy: share of policy tokens whose most likely prediction is the demonstrated one.
    """

    total: Tensor
    text: float
    dense: float
    accuracy: float


class DenseHeads(nn.Module):
    """The two dense heads: on what the vision tower says, and on what the text model makes of it.

    Args:
        width: of both.
    """

    def __init__(self, width: int) -> None:
        """Make both."""
        super().__init__()
        self.vision = DenseHead(width)
        self.text = DenseHead(width)


def sft_loss(
    vlm: VisionLanguageModel,
    demonstrations: Sequence[Demonstration],
    heads: DenseHeads | None,
    sigma: float = 0.0,
    dense_weight: float = 0.0,
    distributed: DistributedContext | None = None,
) -> SFTLoss:
    """Compute the loss of a batch of demonstrations, or this rank's share of it.

    Args:
        vlm: the learner.
        demonstrations: the batch, or this rank's part of it.
        heads: of the dense loss, or None.
        sigma: width of smoothed coordinates, 0 for plain cross-entropy.
        dense_weight: weight of the dense loss.
        distributed: who has the other parts; means are over the whole batch.

    Returns:
        The losses.
    """
    buffers = [demonstration.buffer for demonstration in demonstrations]
    targets = [] if heads is None else dense_targets(vlm, demonstrations)
    counts = [sft_counts(demonstrations, targets)]
    if distributed is not None:
        counts = distributed.all_gather(counts[0])
    tokens, cells, people = (max(1, sum(one)) for one in zip(*counts, strict=True))
    features = vlm.features_of(image for buffer in buffers for image in buffer.images)
    hidden = vlm.hidden(buffers, features)
    ids, mask = vlm.targets(buffers)
    logp = vlm.head.log_softmax(hidden[:, :-1][mask[:, 1:]], 1.0)
    demonstrated = ids[mask]
    if sigma > 0:
        flags = torch.zeros(mask.shape, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            flags[row, : len(buffer)] = torch.tensor(coordinate_mask(buffer, vlm))
        coordinates = flags.to(mask.device)[mask]
        per_token = smoothed_loss(logp, demonstrated, coordinates, sigma)
    else:
        per_token = nn.functional.nll_loss(logp, demonstrated, reduction="none")
    text = per_token.sum() / tokens
    dense = text.new_zeros(())
    if heads is not None:
        integers = vlm.core.get_input_embeddings().weight[_JOINED_IDS]
        visual = torch.cat([features[i.key][0] for b in buffers for i in b.images]).float()
        seen = hidden[ids == vlm.image_token_id].float()
        for head, states, frame in ((heads.vision, visual, "own"), (heads.text, seen, "view")):
            found, edges = head.losses(states, *stacked(targets, frame), integers, sigma)
            dense = dense + found / cells + EDGE_WEIGHT * edges / people
    right = (logp.argmax(-1) == demonstrated).sum() / tokens
    total = text + dense_weight * dense
    return SFTLoss(total, text.item(), dense.item(), right.item())


def sft_counts(
    demonstrations: Sequence[Demonstration], targets: Sequence[DenseTarget]
) -> tuple[int, int, int]:
    """Count what the means of the loss are over.

    Args:
        demonstrations: a batch or a part of it.
        targets: its dense targets; none where there is no dense loss.

    Returns:
        Policy tokens, quarters of cells, and people in them.
    """
    tokens = sum(sum(demonstration.buffer.loss_mask) for demonstration in demonstrations)
    return tokens, sum(t.flags.size for t in targets), sum(len(t.own) for t in targets)


def dense_targets(
    vlm: VisionLanguageModel, demonstrations: Sequence[Demonstration]
) -> list[DenseTarget]:
    """Return the dense targets of all images of a batch, demonstration by demonstration.

    Args:
        vlm: gives the side of a token's cell.
        demonstrations: a batch or a part of it.
    """
    cell = vlm.chat.patch * vlm.chat.merge
    return [
        dense_target(boxes, in_view, image, cell)
        for demonstration in demonstrations
        for image, boxes, in_view in zip(
            demonstration.buffer.images, demonstration.boxes, demonstration.in_view, strict=True
        )
    ]


def train_sft(
    vlm: VisionLanguageModel,
    demonstrations: Dataset[Demonstration],
    config: SFTConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    logger: RunLogger | None = None,
    distributed: DistributedContext | None = None,
) -> None:
    """Teach a model from demonstrations.

    With several ranks each learns from its share of every batch, and the gradients add up.

    Args:
        vlm: the learner; its trainable parameters change.
        demonstrations: indexable data set with ``__len__``; each worker process gets a copy.
        config: the settings.
        out: folder for checkpoints, or None for none.
        resume: go on from the newest checkpoint in ``out`` when there is one.
        stop_at: step after which to return, with a checkpoint in ``out``, to go on with other
            demonstrations; by default the last one.
        logger: where the numbers of the first rank go.
        distributed: the processes of the run; by default this one alone.

    Raises:
        ConfigError: for another number of steps once the rate falls, a stop outside what is left
            of them, coordinate smoothing with another tokenizer than the tiny one, or a dense loss
            with a model that does not give its image features.
        FloatingPointError: when a gradient is not finite.
    """
    if config.coordinate_sigma > 0 and not _has_integer_tokens(vlm):
        raise ConfigError(
            "coordinate_sigma: expected 0, since the tokenizer has no single tokens for 0..1000"
        )
    if config.dense_weight > 0 and not vlm.gives_image_features:
        raise ConfigError(
            "dense_weight: expected 0 for a model that keeps the features of its images to itself, "
            f"got {config.dense_weight}"
        )
    distributed = distributed or DistributedContext()
    seed_everything(config.seed)
    heads = None
    if config.dense_weight > 0:
        heads = DenseHeads(vlm.core.config.text_config.hidden_size).to(vlm.device)
    named = [(name, p) for name, p in vlm.model.named_parameters() if p.requires_grad]
    named += [(f"dense_heads.{name}", p) for name, p in heads.named_parameters()] if heads else []
    parameters = [parameter for _, parameter in named]
    optimizer = SFTOptimizer(
        named, config.learning_rate, config.weight_decay, muon=config.optimizer == "muon"
    )
    start = 0
    folder = None if out is None else out / "checkpoints"
    path = latest_checkpoint(folder) if folder is not None and resume else None
    if path is not None:
        found = load_checkpoint(path, asdict(config), may_differ=(*ENDING, "workers"))
        _check_ending(found, config)
        check_random_state(found)
        vlm.load_state_dict(found.weights)
        optimizer.load_state_dict(found.optimizer)
        if heads is not None:
            heads.load_state_dict(found.extra["heads"])
        set_rng_state(found.rng)
        start = found.step
    last = config.steps if stop_at is None else stop_at
    if not max(1, start) <= last <= config.steps:
        raise ConfigError(
            f"stop_at: expected {max(1, start)}..{config.steps}, since step {start} is done, "
            f"got {stop_at}"
        )
    if logger is not None and distributed.is_main:
        logger.start(start)
    mine = distributed.shard(config.batch_size)
    batches = DataLoader(
        demonstrations,
        batch_size=len(mine),
        sampler=_LessonOrder(len(demonstrations), start, replace(config, steps=last), mine),  # type: ignore[arg-type]
        collate_fn=list,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        prefetch_factor=4 if config.workers else None,
    )
    vlm.model.train()
    for step, batch in enumerate(batches, start=start + 1):
        began = time.perf_counter()
        distributed.activity = f"step {step}"
        rate = config.learning_rate * learning_rate_share(step, config)
        optimizer.set_learning_rate(rate)
        loss = sft_loss(vlm, batch, heads, sigma_at(step, config), config.dense_weight, distributed)
        loss.total.backward()
        distributed.all_reduce_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        # The norm is the same on all ranks and not finite where any of their losses is not.
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"step {step}: expected a finite gradient, got norm {norm}")
        optimizer.step()
        optimizer.zero_grad()
        shares = distributed.all_gather((loss.text, loss.dense, loss.accuracy))
        if logger is not None and distributed.is_main:
            text, dense, accuracy = (sum(one) for one in zip(*shares, strict=True))
            numbers = {
                "sft/loss": text,
                "sft/dense_loss": dense,
                "sft/token_accuracy": accuracy,
                "sft/grad_norm": float(norm),
                "sft/learning_rate": rate,
                "time/step": time.perf_counter() - began,
            }
            logger.log(step, numbers)
        due = step % config.checkpoint_every == 0 or step == last
        if folder is not None and distributed.is_main and due:
            extra: dict[str, Any] = {} if heads is None else {"heads": heads.state_dict()}
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


class _LessonOrder(Sampler[int]):
    """Demonstration numbers from some step on, every epoch in its own order."""

    def __init__(self, count: int, start: int, config: SFTConfig, mine: range) -> None:
        self.count, self.start, self.config, self.mine = count, start, config, mine

    def __len__(self) -> int:
        return (self.config.steps - self.start) * len(self.mine)

    def __iter__(self) -> Iterator[int]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.config.steps):
            for at in (step * self.config.batch_size + place for place in self.mine):
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
