"""How many operations a step of GRPO needs, and how many a second the device can do.

The utilisation (MFU) of an update is

    6 * (W_text * tokens + W_head * sampled + W_vision * patches) + 12 * layers * d * pairs
    ---------------------------------------------------------------------------------------
                            seconds of the update * peak FLOP/s

with W the weights that multiply a token or patch, d = heads * head size, pairs the query-key pairs
of causal attention, and peak the best rate of a large matrix product in the same run. Every
distinct token of a group counts once, whether it is computed once or G times. Sampling adds a
forward pass: 2 for each 6 and 4 for each 12. With a LoRA, frozen weights need no gradient of their
own: 4 for text and head, 2 for vision. Attention of the vision tower is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dip_agents import VLM, RolloutGroup


@dataclass(frozen=True)
class Work:
    """What one step has to compute, every distinct token of a group once."""

    tokens: int
    sampled: int
    patches: int
    pairs: int

    @classmethod
    def of(cls, groups: Sequence[RolloutGroup]) -> Work:
        """Count the work of some groups."""
        tokens = sampled = patches = pairs = 0
        for group in groups:
            buffers = [rollout.buffer for rollout in group.rollouts]
            prefix = buffers[0].loss_mask.index(1)
            tokens += prefix + sum(len(b) - prefix for b in buffers)
            sampled += sum(sum(b.loss_mask) for b in buffers)
            images = {image.key: image for b in buffers for image in b.images}
            patches += sum(math.prod(image.grid) for image in images.values())
            pairs += prefix * (prefix + 1) // 2
            for own in (len(b) - prefix for b in buffers):
                pairs += prefix * own + own * (own + 1) // 2
        return cls(tokens, sampled, patches, pairs)


@dataclass(frozen=True)
class Passes:
    """Operations per weight and token, and per dimension and pair of attention."""

    text: int
    head: int
    vision: int
    attention: int


FORWARD = Passes(2, 2, 2, 4)
FULL_UPDATE = Passes(6, 6, 6, 12)
LORA_UPDATE = Passes(4, 4, 2, 12)


def flops(vlm: VLM, work: Work, passes: Passes) -> float:
    """Return the floating point operations of some work, attention of the vision tower left out."""
    core = vlm.core
    text, visual = core.model.language_model, core.model.visual
    config = text.config
    merger = _matrices(visual.merger) / vlm.merge**2
    patches = _matrices(visual.blocks) + _matrices(visual.patch_embed) + merger
    return (
        float(passes.text) * _matrices(text.layers) * work.tokens
        + passes.head * config.hidden_size * config.vocab_size * work.sampled
        + passes.vision * patches * work.patches
        + passes.attention * config.num_hidden_layers * config.hidden_size * work.pairs
    )


def _matrices(module: Any) -> int:
    """Return the number of weights in products; LoRA adapters are left out."""
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if p.ndim > 1 and "lora_" not in name)


def peak_flops(device: torch.device, size: int, seconds: float = 1.0) -> float:
    """Return the best rate of bfloat16 matrix products on the device, in FLOP/s.

    Args:
        device: where.
        size: of the square matrices.
        seconds: how long to try.
    """
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait(device)
        began = time.perf_counter()
        for _ in range(8):
            _ = a @ a
        wait(device)
        best = max(best, 8 * 2 * size**3 / (time.perf_counter() - began))
    return best


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
