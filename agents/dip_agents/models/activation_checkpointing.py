"""Activation checkpointing: layers recompute their activations in the backward pass."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def enable_activation_checkpointing(layers: Iterable[nn.Module]) -> None:
    """Keep only what goes into and out of each layer until the backward pass, in place.

    Weights, names and results stay as they are, and nothing changes without gradients. Unlike
    the switch of transformers, which is silently off in eval mode, this works in both modes.

    Args:
        layers: of a text model or vision tower; applying it twice is applying it once.
    """
    for layer in layers:
        layer.forward = types.MethodType(_recomputed, layer)


def _recomputed(self: Any, *args: Any, **kwargs: Any) -> Any:
    # The class's forward, looked up at each call: sharding swaps the class under a layer.
    forward = types.MethodType(type(self).forward, self)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
