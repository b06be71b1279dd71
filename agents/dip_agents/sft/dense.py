"""Targets that train a tiny model to localise from scratch: smoothed coordinates, dense targets.

With plain cross-entropy on box lists a model of this size learns the syntax and not the positions.
Dense targets make every image token predict the people in its cell, in the integers that answers
consist of (source: ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, JOINED
from dip_agents.tokens.buffer import EncodedImage, TokenBuffer

QUARTERS = 4
"""Parts of an image token's cell, two by two, that may each hold a person."""
MIN_HEIGHT = 6.0
"""People less tall in an image, in its pixels, are no dense target there."""


def coordinate_mask(buffer: TokenBuffer, vlm: VisionLanguageModel) -> list[bool]:
    """Return which policy tokens are coordinates: integers inside look and answer tags.

    Args:
        buffer: a demonstration of a model with the tiny tokenizer.
        vlm: the model, for its tokenizer.

    Returns:
        One flag per token of the buffer.
    """
    ids = vlm.processor.tokenizer.convert_tokens_to_ids
    opens, closes = ({ids(f"<{slash}{tag}>") for tag in ("look", "answer")} for slash in ("", "/"))
    last = max(role.stop for role in INTEGER_ROLES.values())
    flags, inside = [], False
    for token, sampled in zip(buffer.ids, buffer.loss_mask, strict=True):
        if sampled and token in opens:
            inside = True
        elif token in closes:
            inside = False
        flags.append(bool(sampled and inside and token < last))
    return flags


def smoothed_loss(logp: Tensor, targets: Tensor, coordinate: Tensor, sigma: float) -> Tensor:
    """Cross-entropy with a Gaussian over neighbouring integers as the target of a coordinate.

    Args:
        logp: log-probabilities (N, V) over the tiny tokenizer's ids.
        targets: ids (N,).
        coordinate: True where the target is a coordinate (N,).
        sigma: width in integers; 0 is plain cross-entropy.

    Returns:
        Loss per token (N,); no weight goes to an integer of another role.
    """
    plain = F.nll_loss(logp, targets, reduction="none")
    if sigma == 0 or not bool(coordinate.any()):
        return plain
    chosen = targets[coordinate]
    low, high = torch.zeros_like(chosen), torch.zeros_like(chosen)
    for role in INTEGER_ROLES.values():
        inside = (chosen >= role.start) & (chosen < role.stop)
        low[inside], high[inside] = role.start, role.stop - 1
    smooth = _smoothed(logp[coordinate], chosen, low, high, sigma)
    return plain.masked_scatter(coordinate, smooth)


def _smoothed(logp: Tensor, target: Tensor, low: Tensor, high: Tensor, sigma: float) -> Tensor:
    """Return the cross-entropy (N,) with a Gaussian around each target, cut at low and high."""
    reach = int(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=logp.device)
    around = target[:, None] + offsets
    inside = (around >= low[:, None]) & (around <= high[:, None])
    weight = torch.exp(-0.5 * (offsets / sigma) ** 2) * inside
    weight = weight / weight.sum(1, keepdim=True)
    picked = logp.gather(1, around.clamp(0, logp.shape[1] - 1))
    return -(weight * picked).sum(1)


@dataclass(frozen=True, eq=False)
class DenseTarget:
    """The people in the cells of an image's tokens.

    Args:
        flags: whether a person's centre lies in each quarter of each cell, bool (tokens, 4).
        own: edges of those people, x1, y1, x2, y2, in pixels of the image, long (P, 4), in the
            order of the flags.
        view: the same people in pixels of the overview, long (P, 4).
    """

    flags: NDArray[np.bool_]
    own: NDArray[np.int64]
    view: NDArray[np.int64]


def dense_target(
    boxes: NDArray[np.float64],
    in_view: NDArray[np.float64],
    image: EncodedImage,
    cell: int,
) -> DenseTarget:
    """Find for each quarter of an image token's cell the person whose centre lies in it.

    Args:
        boxes: (N, 4) xyxy in pixels of this image.
        in_view: (N, 4) the same people in pixels of the overview.
        image: gives the grid.
        cell: side of a token's cell in pixels.

    Returns:
        The target. Of several centres in a quarter the largest box counts; people under
        ``MIN_HEIGHT`` pixels are left out.
    """
    _, h, w = image.grid
    side = round((h * w / image.tokens) ** 0.5)
    rows, columns = h // side, w // side
    owner = np.full((rows, columns, QUARTERS), -1)
    height = boxes[:, 3] - boxes[:, 1]
    area = (boxes[:, 2] - boxes[:, 0]) * height
    for i in np.argsort(area, kind="stable"):
        centre = (boxes[i, :2] + boxes[i, 2:]) / 2
        column, row = (int(v // (cell / 2)) for v in centre)
        if height[i] >= MIN_HEIGHT and 0 <= row < 2 * rows and 0 <= column < 2 * columns:
            owner[row // 2, column // 2, 2 * (row % 2) + column % 2] = i
    owner = owner.reshape(-1, QUARTERS)
    who = owner[owner >= 0]
    own, view = (
        np.clip(np.rint(edges[who]), 0, JOINED - 1).astype(np.int64) for edges in (boxes, in_view)
    )
    return DenseTarget(owner >= 0, own, view)


class DenseHead(nn.Module):
    """Predicts the people in the cells of image tokens from their states; for training only.

    Edges are predicted as the language model predicts tokens, by similarity to the embeddings of
    integers, so that the states already hold what attention must copy for an answer.

    Args:
        width: of the states.
    """

    def __init__(self, width: int) -> None:
        """Make a linear head."""
        super().__init__()
        self.quarters = nn.Linear(width, QUARTERS * width)
        self.flag = nn.Linear(width, 1)
        self.edges = nn.Linear(width, 4 * width)

    def losses(
        self,
        states: Tensor,
        flags: NDArray[np.bool_],
        edges: NDArray[np.int64],
        integers: Tensor,
        sigma: float,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed losses of flags and of edges.

        Args:
            states: of image tokens (N, d).
            flags: bool (N, 4).
            edges: (P, 4), a row for each flag that is set.
            integers: embeddings (``JOINED``, d) of 0, 1, 2, ...
            sigma: width of smoothed edges in integers.

        Returns:
            Sum over flags of the binary cross-entropy (set ones weigh 4), and sum over people of
            the mean cross-entropy of their four edges.
        """
        truth = torch.from_numpy(flags).to(states.device)
        slots = self.quarters(states).unflatten(1, (QUARTERS, -1))
        found = F.binary_cross_entropy_with_logits(
            self.flag(slots)[..., 0],
            truth.float(),
            pos_weight=torch.tensor(4.0, device=states.device),
            reduction="sum",
        )
        if not len(edges):
            return found, found.new_zeros(())
        guess = self.edges(slots[truth]).unflatten(1, (4, -1)) @ integers.T
        logp = torch.log_softmax(guess.float(), -1).flatten(0, 1)
        target = torch.from_numpy(edges.reshape(-1)).to(states.device)
        low = torch.zeros_like(target)
        if sigma == 0:
            wrong = F.nll_loss(logp, target, reduction="none")
        else:
            wrong = _smoothed(logp, target, low, low + JOINED - 1, sigma)
        return found, wrong.sum() / 4


def stacked(targets: Sequence[DenseTarget], frame: str) -> tuple[NDArray, NDArray]:
    """Join the targets of several images.

    Args:
        targets: in the order of the images.
        frame: ``own`` or ``view``, whose edges.

    Returns:
        Flags (N, 4) and edges (P, 4).
    """
    flags = np.concatenate([target.flags for target in targets])
    return flags, np.concatenate([getattr(target, frame) for target in targets])
