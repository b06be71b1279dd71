"""Index tensors that a Qwen-VL vision tower derives from image sizes alone, cached per grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class TowerShape:
    """The settings of a tower that decide which patches belong together.

    Args:
        merge: patches along each side of a token.
        patch: pixels along each side of a patch.
        window: pixels along each side of an attention window, 0 for none.
        table: rows and columns of the learned position table, 0 for none.
        mode: of its interpolation.
        align_corners: of its interpolation.
    """

    merge: int
    patch: int
    window: int = 0
    table: int = 0
    mode: str = "bilinear"
    align_corners: bool = True


@dataclass(frozen=True, eq=False)
class Segments:
    """Runs of patches that attend among themselves, those of one length side by side.

    Args:
        runs: count and length of the segments, run after run.
        order: patch indices that bring patches into the order of the runs, or None when they are.
        back: the inverse of ``order``.
    """

    runs: tuple[tuple[int, int], ...]
    order: Tensor | None = None
    back: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Layout:
    """One image: rotary positions, position table taps and weights, window order and lengths."""

    positions: Tensor
    taps: tuple[Tensor, ...]
    tokens: Tensor
    windows: Tensor


def order_of(grids: Sequence[Grid]) -> list[int]:
    """Return the order of images in which those of one size are neighbours.

    Args:
        grids: frames, rows and columns of patches per image.

    Returns:
        Indices; a batch in this order is not rearranged between blocks without windows.
    """
    return sorted(range(len(grids)), key=lambda i: (grids[i][1] * grids[i][2], grids[i]))


@lru_cache(maxsize=8)
def plan(grids: tuple[Grid, ...], shape: TowerShape, device: torch.device) -> dict[str, Any]:
    """Return arguments that a transformers tower would otherwise compute itself at every call.

    In place of boundaries the tower passes ``Segments`` to its attention. With windows, the
    windows of all images are sorted by length, so that each length is one batch.

    Args:
        grids: frames, rows and columns of patches per image.
        shape: of the tower.
        device: where the tower is.
    """
    # A tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False), torch.no_grad():
        layouts = [_layout(grid, shape) for grid in grids]
        frames = torch.tensor([rows * columns for t, rows, columns in grids for _ in range(t)])
        out: dict[str, Any] = {"position_ids": torch.cat([part.positions for part in layouts])}
        permutation = None
        if shape.window:
            sizes = torch.tensor([len(part.tokens) for part in layouts])
            starts = sizes.cumsum(0) - sizes
            tokens = torch.cat([part.tokens for part in layouts]) + starts.repeat_interleave(sizes)
            lengths = torch.cat([part.windows for part in layouts])
            tokens = tokens[lengths.repeat_interleave(lengths).argsort(stable=True)]
            unit = shape.merge**2
            permutation = (tokens[:, None] * unit + torch.arange(unit)).flatten()
            out["window_index"] = tokens
            out["cu_window_seqlens"] = Segments(_runs(lengths.sort().values * unit))
            out["max_window_seqlen"] = int(lengths.max()) * unit
        if shape.table:
            out["interp_indices"], out["interp_weights"] = (
                torch.cat(part) for part in zip(*(part.taps for part in layouts), strict=True)
            )
        out["cu_seqlens"] = _frame_segments(frames, permutation, device)
        out["max_seqlen"] = int(frames.max())
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in out.items()}


def _frame_segments(frames: Tensor, permutation: Tensor | None, device: torch.device) -> Segments:
    """Group frames of the given lengths whose patches were permuted."""
    order = frames.repeat_interleave(frames).argsort(stable=True)
    runs = _runs(frames.sort().values)
    if permutation is not None:
        order = permutation.argsort()[order]
    if bool((order == torch.arange(len(order))).all()):
        return Segments(runs)
    return Segments(runs, order.to(device), order.argsort().to(device))


def _runs(lengths: Tensor) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(same)), length) for length, same in groupby(lengths.tolist()))


@lru_cache(maxsize=128)
def _layout(grid: Grid, shape: TowerShape) -> _Layout:
    one = torch.tensor([grid])
    none = torch.empty(0, dtype=torch.long)
    taps: tuple[Tensor, ...] = ()
    tokens = windows = none
    if shape.table:
        taps = get_vision_interpolation_indices_and_weights(
            one, shape.table, shape.mode, shape.align_corners, shape.merge
        )
    if shape.window:
        tokens, bounds = get_vision_window_index(one, shape.merge, shape.window, shape.patch)
        windows = bounds.diff().long() // shape.merge**2
    return _Layout(get_vision_position_ids(one, shape.merge), taps, tokens, windows)
