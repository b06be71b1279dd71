"""Faster, exact forwards for the stock vision towers."""

from __future__ import annotations

import logging
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from dip_agents.models.vision_plan import Segments, TowerShape, plan


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
    qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
    cos, sin = (part.unsqueeze(1).float() for part in position_embeddings)
    parts = [_rotate(qkv[:, 0], cos, sin), _rotate(qkv[:, 1], cos, sin), qkv[:, 2]]
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


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    full = states.float()
    first, second = full.chunk(2, dim=-1)
    return (full * cos + torch.cat([-second, first], dim=-1) * sin).to(states.dtype)
