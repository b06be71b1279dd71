"""The loss of demonstrations: cross-entropy of their tokens, and the dense auxiliary loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, JOINED
from dip_agents.sft.demonstrations import Demonstration
from dip_agents.sft.dense import (
    DenseHead,
    DenseTarget,
    coordinate_mask,
    dense_target,
    smoothed_loss,
    stacked,
)
from dip_agents.tokens.buffer import TokenBuffer

EDGE_WEIGHT = 0.25
"""Of the edges' cross-entropy in the dense loss, which is some ten times that of the flags."""
_JOINED_IDS = slice(INTEGER_ROLES[","].start, INTEGER_ROLES[","].start + JOINED)
"""The role of most coordinates of an answer."""


class SFTCounts(NamedTuple):
    """The terms of the means of the loss: policy tokens, quarters of cells, and people in them."""

    tokens: int
    cells: int
    people: int

    @classmethod
    def total(cls, parts: Iterable[SFTCounts]) -> SFTCounts:
        """Return the counts of a batch from those of its parts."""
        return cls(*(sum(one) for one in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class SFTLoss:
    """Losses of one batch, or of a part of it; ``total`` carries the gradient.

    Args:
        total: what is minimised; those of all parts add up to the batch's.
        text: plain or smoothed cross-entropy per policy token of the batch.
        dense: dense loss, 0 when off.
        accuracy: share of policy tokens whose most likely prediction is the demonstrated one.
    """

    total: Tensor
    text: float
    dense: float
    accuracy: float


class DenseHeads(nn.Module):
    """The two dense heads: on the features of the vision tower and on those of the text model.

    Args:
        width: of both kinds of features.
    """

    def __init__(self, width: int) -> None:
        """Make both heads."""
        super().__init__()
        self.vision = DenseHead(width)
        self.text = DenseHead(width)


def sft_loss(
    vlm: VisionLanguageModel,
    demonstrations: Sequence[Demonstration],
    heads: DenseHeads | None,
    sigma: float = 0.0,
    dense_weight: float = 0.0,
    counts: SFTCounts | None = None,
    targets: Sequence[DenseTarget] | None = None,
) -> SFTLoss:
    """Compute the loss of a batch of demonstrations, or of a part of it.

    Args:
        vlm: the learner.
        demonstrations: the batch or the part.
        heads: of the dense loss, or None.
        sigma: width of smoothed coordinates, 0 for plain cross-entropy.
        dense_weight: weight of the dense loss.
        counts: what the means are over, of the whole batch; by default of what is given.
        targets: of the dense loss, image by image, where the caller has made them already.

    Returns:
        The losses.
    """
    buffers = [demonstration.buffer for demonstration in demonstrations]
    if targets is None:
        targets = [] if heads is None else dense_targets(vlm, demonstrations)
    counts = counts or sft_counts(demonstrations, targets)
    tokens, cells, people = (max(1, count) for count in counts)
    features = vlm.features_of(image for buffer in buffers for image in buffer.images)
    hidden = vlm.hidden(buffers, features)
    ids, mask = vlm.targets(buffers)
    logp = vlm.head.log_softmax(hidden[:, :-1][mask[:, 1:]], 1.0)
    demonstrated = ids[mask]
    text = _token_losses(vlm, buffers, logp, demonstrated, mask, sigma).sum() / tokens
    dense = text.new_zeros(())
    if heads is not None:
        integers = vlm.core.get_input_embeddings().weight[_JOINED_IDS]
        visual = torch.cat([features[i.key][0] for b in buffers for i in b.images]).float()
        seen = hidden[ids == vlm.image_token_id].float()
        for head, states, frame in ((heads.vision, visual, "own"), (heads.text, seen, "view")):
            flags, edges = head.losses(states, *stacked(targets, frame), integers, sigma)
            dense = dense + flags / cells + EDGE_WEIGHT * edges / people
    right = (logp.argmax(-1) == demonstrated).sum() / tokens
    total = text + dense_weight * dense
    return SFTLoss(total, text.item(), dense.item(), right.item())


def _token_losses(
    vlm: VisionLanguageModel,
    buffers: Sequence[TokenBuffer],
    logp: Tensor,
    demonstrated: Tensor,
    mask: Tensor,
    sigma: float,
) -> Tensor:
    """Return the cross-entropy (N,) of the N policy tokens, with smoothed coordinates."""
    if not sigma > 0:
        return nn.functional.nll_loss(logp, demonstrated, reduction="none")
    flags = torch.zeros(mask.shape, dtype=torch.bool)
    for row, buffer in enumerate(buffers):
        flags[row, : len(buffer)] = torch.tensor(coordinate_mask(buffer, vlm))
    return smoothed_loss(logp, demonstrated, flags.to(mask.device)[mask], sigma)


def sft_counts(
    demonstrations: Sequence[Demonstration], targets: Sequence[DenseTarget]
) -> SFTCounts:
    """Count the terms of the means of the loss.

    Args:
        demonstrations: a batch or a part of it.
        targets: its dense targets; none where there is no dense loss.
    """
    tokens = sum(sum(demonstration.buffer.loss_mask) for demonstration in demonstrations)
    return SFTCounts(tokens, sum(t.flags.size for t in targets), sum(len(t.own) for t in targets))


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
