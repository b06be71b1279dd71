"""The vision towers of Qwen-VL with faster, exact forwards.

``plan`` derives index tensors from image sizes alone, cached per grid; the forwards below use them.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from dip_agents.models.norm_rotate import rotate

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
class Taps:
    """Where the learned position table is read, once for all images of one size.

    Args:
        indices: into the table, (P, taps), for the P patches of one image of each size.
        weights: of the rows that are read, (P, taps).
        patches: which of the P each patch of the batch is, (N,).
    """

    indices: Tensor
    weights: Tensor
    patches: Tensor


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

    In place of boundaries the tower passes ``Segments`` to its attention, and ``Taps`` in place of
    indices to its position table. With windows, the
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
            out["interp_indices"] = _taps(grids, shape, device)
            # The table's forward has weighed and summed already.
            out["interp_weights"] = torch.ones(1, 1)
        out["cu_seqlens"] = _frame_segments(frames, permutation, device)
        out["max_seqlen"] = int(frames.max())
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in out.items()}


def _taps(grids: Sequence[Grid], shape: TowerShape, device: torch.device) -> Taps:
    sizes = {grid: grid[0] * grid[1] * grid[2] for grid in grids}
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    indices, weights = (
        torch.cat(part).to(device)
        for part in zip(*(_layout(grid, shape).taps for grid in sizes), strict=True)
    )
    patches = torch.cat([torch.arange(sizes[grid]) + starts[grid] for grid in grids])
    return Taps(indices, weights, patches.to(device))


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


def speed_up_vision(visual: nn.Module) -> bool:
    """Replace slow forwards of a Qwen-VL vision tower by exact, faster ones, in place.

    The stock attention loops in Python over images, or over windows in every block; here those
    of one length attend as one batch. The patch embedding is a Conv3d whose kernel covers its
    whole input, that is, a linear layer (its backward alone took longer than the rest of the
    tower; source: ours, measured). What depends on image sizes alone is kept between calls.
    Weights and their names stay as they are, and adapters on them keep working.

    Args:
        visual: vision tower of Qwen3-VL or Qwen2.5-VL; another one is left as it is, with a
            warning.

    Returns:
        Whether the tower is fast now.
    """
    if not isinstance(visual, (Qwen3VLVisionModel, Qwen2_5_VisionTransformerPretrainedModel)):
        logging.getLogger(__name__).warning(
            "expected the vision tower of Qwen3-VL or Qwen2.5-VL, got %s: it keeps the "
            "slower forward of transformers",
            type(visual).__name__,
        )
        return False
    visual.forward = types.MethodType(_planned_forward, visual)
    visual.patch_embed.forward = types.MethodType(_linear_patches, visual.patch_embed)
    if hasattr(visual, "pos_embed"):
        visual.pos_embed.forward = types.MethodType(_interpolated, visual.pos_embed)
    for block in visual.blocks:
        block.attn.forward = types.MethodType(_batched_attention, block.attn)
    return True


def _planned_forward(self: Any, hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
    # Grids on the CPU avoid a synchronisation with the GPU here.
    grids = tuple((t, rows, columns) for t, rows, columns in grid_thw.tolist())
    shape = TowerShape(
        merge=self.spatial_merge_size,
        patch=self.patch_size,
        window=getattr(self, "window_size", 0),
        table=getattr(self, "num_grid_per_side", 0),
        mode=getattr(self, "interpolation_mode", "bilinear"),
        align_corners=getattr(self, "interpolation_align_corners", True),
    )
    given = plan(grids, shape, hidden_states.device)
    return type(self).forward(self, hidden_states, grid_thw, **{**given, **kwargs})


def _linear_patches(self: Any, hidden_states: Tensor) -> Tensor:
    if not isinstance(self.proj, nn.Conv3d):  # an adapter around it has a forward of its own
        return type(self).forward(self, hidden_states)
    weight = self.proj.weight
    return F.linear(
        hidden_states.to(weight.dtype).view(-1, weight[0].numel()),
        weight.flatten(1),
        self.proj.bias,
    )


def _interpolated(self: Any, indices: Tensor | Taps) -> Tensor:
    """Return weighted sums of table rows (N, 1, d); the tower adds up the axis of size 1."""
    if not isinstance(indices, Taps):  # called by another forward
        out: Tensor = type(self).forward(self, indices)
        return out
    weights = indices.weights.to(self.weight.dtype)
    sums = F.embedding_bag(indices.indices, self.weight, per_sample_weights=weights, mode="sum")
    # Looked up, since the gradient of plain indexing is slow on CPUs.
    return F.embedding(indices.patches, sums)[:, None]


def _batched_attention(
    self: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor | Segments,
    position_embeddings: tuple[Tensor, Tensor],
    **kwargs: Any,
) -> Tensor:
    if not isinstance(cu_seqlens, Segments):  # called by another forward
        return type(self).forward(
            self,
            hidden_states,
            cu_seqlens=cu_seqlens,
            position_embeddings=position_embeddings,
            **kwargs,
        )
    # Unlike three slices, whose gradients would be filled up with zeros and added.
    query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
    cos, sin = (part.unsqueeze(1) for part in position_embeddings)
    parts = [rotate(query, cos, sin), rotate(key, cos, sin), value]
    if cu_seqlens.order is not None:
        parts = [part.index_select(0, cu_seqlens.order) for part in parts]
    # Segments of one length are one batch; padding them to the longest would cost more.
    sizes = [count * length for count, length in cu_seqlens.runs]
    groups = zip(*(part.split(sizes) for part in parts), strict=True)
    outs = []
    for run, group in zip(cu_seqlens.runs, groups, strict=True):
        query, key, value = (part.unflatten(0, run) for part in group)
        outs.append(_attend(query, key, value, self.scaling).flatten(0, 1))
    out = torch.cat(outs)
    if cu_seqlens.back is not None:
        out = out.index_select(0, cu_seqlens.back)
    return self.proj(out.flatten(1))


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend within rows: (segments, patches, heads, size) of queries, keys and values."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # The fused CPU kernel is twice as slow as plain products in bf16 (measured).
        out = torch.softmax((query * scale) @ key.transpose(-1, -2), dim=-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return out.transpose(1, 2)
