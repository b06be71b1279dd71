"""The text models of Qwen-VL with the same layers in fewer passes over memory.

Matrix products stay where they were, so adapters, sharding and checkpointing keep working; what
lies between them, norms, rotations and gates, is one function each with its gradient written out.
Each keeps only what went into it until the backward pass, where plain operations keep every
intermediate result, most of them in float32.
"""

from __future__ import annotations

import logging
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from dip_agents.models.norm_rotate import norm_rotate, rms_norm, rotate
from dip_agents.models.packed_attention import packed_attention
from dip_agents.models.precision import autocast_dtype
from dip_agents.tokens.packing import Layout


def speed_up_text(text_model: nn.Module) -> bool:
    """Replace forwards of a Qwen-VL text model by equal ones that use less memory, in place.

    Weights and their names stay as they are.

    Args:
        text_model: ``language_model`` of Qwen3-VL or Qwen2.5-VL; another one is left as it is, with
            a warning.

    Returns:
        Whether it is fast now.
    """
    if not isinstance(text_model, Qwen3VLTextModel | Qwen2_5_VLTextModel):
        logging.getLogger(__name__).warning(
            "expected the text model of Qwen3-VL or Qwen2.5-VL, got %s: it keeps the slower "
            "forward of transformers",
            type(text_model).__name__,
        )
        return False
    for layer in text_model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.forward = types.MethodType(_norm_for_products, norm)
        layer.self_attn.forward = types.MethodType(_attention, layer.self_attn)
        if text_model.config.hidden_act == "silu":
            layer.mlp.forward = types.MethodType(_gated_mlp, layer.mlp)
    text_model.norm.forward = types.MethodType(_norm, text_model.norm)
    return True


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _norm_for_products(self: Any, hidden_states: Tensor) -> Tensor:
    """Normalise what only products read, and they round it to the autocast dtype."""
    dtype = autocast_dtype(hidden_states.device)
    return rms_norm(hidden_states, self.weight, self.variance_epsilon, dtype)


def _gated_mlp(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
    return out


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    packed: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if packed is None:  # with a cache or another attention
        out: tuple[Tensor, Tensor | None] = type(self).forward(
            self, hidden_states, position_embeddings=position_embeddings, **kwargs
        )
        return out
    query, key, value = (
        layer(hidden_states)[0].unflatten(-1, (-1, self.head_dim))
        for layer in (self.q_proj, self.k_proj, self.v_proj)
    )
    cos, sin = (part[0, :, None] for part in position_embeddings)
    query = _turn(query, cos, sin, getattr(self, "q_norm", None))
    key = _turn(key, cos, sin, getattr(self, "k_norm", None))
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    states, weights = packed_attention(self, q, k, v, None, scaling=self.scaling, packed=packed)
    return self.o_proj(states.flatten(2)), weights


def _turn(states: Tensor, cos: Tensor, sin: Tensor, norm: Any) -> Tensor:
    if norm is None:
        return rotate(states, cos, sin)
    return norm_rotate(states, norm.weight, norm.variance_epsilon, cos, sin)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``, of which only the two inputs are kept.

    Args:
        gate: any shape.
        up: the same shape.

    Source:
        Shazeer, 2020 (arXiv 2002.05202).
    """
    out: Tensor = _SwiGLU.apply(gate, up)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return to_gate, F.silu(gate).mul_(grads[0])
