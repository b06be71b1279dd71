"""What teaches a tiny model places from scratch: smoothed coordinates and a dense target.

Plain cross-entropy on box lists teaches the syntax and not the places at this size; these two
do (source: ours, measured on scenes of one to five people).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dip_agents.tiny.tokenizer import MAX_INTEGER
from dip_agents.token_buffer import EncodedImage, TokenBuffer
from dip_agents.vlm import VLM


def coordinate_mask(buffer: TokenBuffer, vlm: VLM) -> list[bool]:
    """Tell which policy tokens are coordinates: integers inside look and answer tags.

    Args:
        buffer: a demonstration of a model with the tiny tokenizer.
        vlm: the model, for its tokenizer.

    Returns:
        One flag per token of the buffer.
    """
    ids = vlm.processor.tokenizer.convert_tokens_to_ids
    opens, closes = ({ids(f"<{slash}{tag}>") for tag in ("look", "answer")} for slash in ("", "/"))
    flags, inside = [], False
    for token, sampled in zip(buffer.ids, buffer.loss_mask, strict=True):
        if sampled and token in opens:
            inside = True
        elif token in closes:
            inside = False
        flags.append(bool(sampled and inside and token <= MAX_INTEGER))
    return flags


def smoothed_loss(logp: Tensor, targets: Tensor, coordinate: Tensor, sigma: float) -> Tensor:
    """Cross-entropy with a Gaussian over neighbouring integers as the target of a coordinate.

    Args:
        logp: log-probabilities (N, V); ids 0..1000 are the integers.
        targets: ids (N,).
        coordinate: True where the target is a coordinate (N,).
        sigma: width in integers; 0 is plain cross-entropy.

    Returns:
        Loss per token (N,).
    """
    plain = F.nll_loss(logp, targets, reduction="none")
    if sigma == 0 or not bool(coordinate.any()):
        return plain
    reach = int(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=logp.device)
    around = targets[coordinate][:, None] + offsets
    weight = torch.exp(-0.5 * (offsets / sigma) ** 2) * ((around >= 0) & (around <= MAX_INTEGER))
    weight = weight / weight.sum(1, keepdim=True)
    picked = logp[coordinate].gather(1, around.clamp(0, MAX_INTEGER))
    return plain.masked_scatter(coordinate, -(weight * picked).sum(1))


def dense_target(boxes: NDArray[np.float64], image: EncodedImage, cell: int) -> NDArray[np.float32]:
    """Say per image token whether a person's centre lies in its cell, and where the edges are.

    Args:
        boxes: (N, 4) xyxy in pixels of this image.
        image: gives the grid.
        cell: side of a token's cell in pixels.

    Returns:
        float32 (tokens, 5): flag, then x1, y1, x2, y2 relative to the cell's centre in units of
        the image's sides. Of several centres in a cell the largest box counts.
    """
    _, h, w = image.grid
    side = image.tokens and h * w // image.tokens
    rows, columns = int(h / side**0.5), int(w / side**0.5)
    out = np.zeros((rows, columns, 5), dtype=np.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for box in boxes[np.argsort(area)]:
        column, row = (int((box[i] + box[i + 2]) / 2 // cell) for i in (0, 1))
        if 0 <= row < rows and 0 <= column < columns:
            centre = np.array([(column + 0.5) * cell, (row + 0.5) * cell] * 2)
            size = np.array([columns * cell, rows * cell] * 2)
            out[row, column] = (1.0, *((box - centre) / size))
    return out.reshape(-1, 5)


class DenseHead(nn.Module):
    """A linear head on the vision tokens that learns where people are; used in training only."""

    def __init__(self, width: int) -> None:
        """Make a head for tokens of a given width."""
        super().__init__()
        self.out = nn.Linear(width, 5)

    def loss(self, embeds: Sequence[Tensor], targets: Sequence[NDArray[np.float32]]) -> Tensor:
        """Return the mean loss over cells.

        Args:
            embeds: per image (tokens, d).
            targets: per image, from ``dense_target``.

        Returns:
            Scalar: binary cross-entropy of the flag (positives weigh 5) plus 5 times the mean
            absolute error of the edges where a centre lies.
        """
        truth = torch.from_numpy(np.concatenate(targets)).to(embeds[0].device)
        guess = self.out(torch.cat(list(embeds)).float())
        flag = truth[:, 0]
        found = F.binary_cross_entropy_with_logits(
            guess[:, 0], flag, pos_weight=torch.tensor(5.0, device=flag.device)
        )
        edges = ((guess[:, 1:] - truth[:, 1:]).abs().mean(1) * flag).sum() / flag.sum().clamp(min=1)
        return found + 5 * edges
