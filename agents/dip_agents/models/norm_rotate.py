"""RMSNorm and rotary embeddings in few passes over memory, with their gradients written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dip_agents.models.row_blocks import row_blocks

# Numbers worked on at one time by a CPU thread: 0.5 MB in float32, so that the passes over them
# find them in its cache. A GPU takes all of them in one go.
BLOCK = 2**17


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return ``x / rms(x) * weight`` over the last axis, computed in float32.

    Args:
        x: (..., d).
        weight: (d,).
        eps: added to the mean square.
        dtype: of the result; by default that of ``x * weight``.

    Source:
        Zhang and Sennrich, 2019 (arXiv 1910.07467).
    """
    dtype = dtype or torch.promote_types(x.dtype, weight.dtype)
    out: Tensor = _NormRotate.apply(x.flatten(0, -2), weight, eps, None, None, dtype)
    return out.view(x.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return rotary embeddings: pairs (i, i + d/2) of the last axis turned by their angles.

    Args:
        x: (N, heads, d), d even.
        cos: of the angles, (N, 1, d), both halves alike.
        sin: likewise.

    Source:
        Su et al., 2021 (arXiv 2104.09864), with the pairs of GPT-NeoX.
    """
    out: Tensor = _NormRotate.apply(x, None, 0.0, cos, sin, x.dtype)
    return out


def norm_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``rotate(rms_norm(x))`` in the dtype of ``x``.

    Args:
        x: (N, heads, d), d even.
        weight: of the norm, (d,).
        eps: of the norm.
        cos: as ``rotate`` takes it.
        sin: likewise.
    """
    out: Tensor = _NormRotate.apply(x, weight, eps, cos, sin, x.dtype)
    return out


class _NormRotate(torch.autograd.Function):
    """RMSNorm, rotary embedding or one after the other, of rows (N, ..., d).

    Only ``x`` and, per row, its inverse norm are kept. The gradient of a rotation is the rotation
    back; that of a norm is what is left of it without its part along the normalised row.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        eps: float,
        cos: Tensor | None,
        sin: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        sums = torch.promote_types(torch.float32, x.dtype)
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        inverse = None
        if weight is not None:
            inverse = torch.empty((*x.shape[:-1], 1), dtype=sums, device=x.device)
        for part in row_blocks(x, BLOCK):
            full = x[part].to(sums)
            if weight is not None and inverse is not None:
                length = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
                inverse[part] = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
                full = (full * inverse[part]).mul_(weight)
            if cos is not None and sin is not None:
                full = _turned(full, cos[part], sin[part], 1)
            out[part] = full
        ctx.save_for_backward(x, weight, inverse, cos, sin)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse, cos, sin = ctx.saved_tensors
        sums = torch.promote_types(torch.float32, x.dtype)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        weight_grad = None if weight is None else torch.zeros_like(weight, dtype=sums)
        for part in row_blocks(x, BLOCK):
            grad = grads[0][part].to(sums)
            if cos is not None:
                grad = _turned(grad, cos[part], sin[part], -1)
            if weight_grad is not None:
                unit = x[part] * inverse[part]
                along = grad * unit
                weight_grad += along.flatten(0, -2).sum(0)
                share = along.mul_(weight).mean(-1, keepdim=True)
                grad = (grad * weight).addcmul_(unit, share, value=-1).mul_(inverse[part])
            out[part] = grad
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight.dtype)
        return out, weight_grad, None, None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Turn pairs by their angles, or back where ``direction`` is -1."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half].to(x.dtype), value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:].to(x.dtype), value=direction)
    return out
