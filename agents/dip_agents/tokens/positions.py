"""Rotary positions of tokens and image grids; independent of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dip_agents.tokens.buffer import EncodedImage, PlaceholderError
from dip_agents.tokens.packing import PackedRow


def token_positions(
    ids: Sequence[int],
    images: Sequence[EncodedImage],
    image_token_id: int,
    merge: int,
    start: int = 0,
) -> tuple[NDArray[np.int64], int]:
    """Return the rotary positions of tokens that begin at position ``start``.

    A text token takes the next position. The tokens of an image lie on its grid, rows and columns
    counted from the next position; what follows begins after the longer side.

    Args:
        ids: T token ids with placeholders.
        images: still images in the order of their placeholders.
        image_token_id: the placeholder id.
        merge: patches per side of one image token.
        start: position of the first token.

    Returns:
        int64 (3, T) of time, row and column, and the position after the last token.

    Raises:
        PlaceholderError: when placeholders and images differ in number.

    Source:
        Qwen2-VL (arXiv 2409.12191), section 2.1; equal to ``get_rope_index`` of transformers.
    """
    visual = np.flatnonzero(np.asarray(ids) == image_token_id)
    expected = sum(image.tokens for image in images)
    if len(visual) != expected:
        raise PlaceholderError(f"expected {expected} image placeholders, got {len(visual)}")
    # Each token moves the position by its step; an image moves it once, at its last token.
    steps = np.ones(len(ids), dtype=np.int64)
    inside = np.zeros((3, len(ids)), dtype=np.int64)
    at = 0
    for image in images:
        _, height, width = image.grid
        rows, columns = height // merge, width // merge
        own = visual[at : at + image.tokens]
        steps[own] = 0
        steps[own[-1]] = max(rows, columns)
        inside[1:, own] = np.indices((rows, columns)).reshape(2, -1)
        at += image.tokens
    return start + np.cumsum(steps) - steps + inside, start + int(steps.sum())


def row_positions(row: PackedRow, image_token_id: int, merge: int) -> NDArray[np.int64]:
    """Return the positions of a packed row; each branch goes on where its root ends.

    Args:
        row: N tokens, at least one.
        image_token_id: the placeholder id.
        merge: patches per side of one image token.

    Returns:
        int64 (3, N).

    Raises:
        PlaceholderError: when placeholders and images of a piece differ in number.
    """
    positions: list[NDArray[np.int64]] = []
    ends: list[int] = []
    for piece in row.pieces:
        start = 0 if piece.parent is None else ends[piece.parent]
        columns, end = token_positions(piece.ids, piece.images, image_token_id, merge, start)
        positions.append(columns)
        ends.append(end)
    return np.concatenate(positions, axis=1)
