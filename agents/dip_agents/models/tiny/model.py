"""The tiny model: real Qwen3-VL (and, as a fixture, Qwen2.5-VL) classes, a few million weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, MAX_INTEGER, build_tokenizer

Family = Literal["qwen3_vl", "qwen2_5_vl"]
Size = Literal["tiny", "micro"]


@dataclass(frozen=True)
class _Shape:
    """Widths and depths of the text model and of the vision tower."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    vision: int
    vision_layers: int
    head_size: int


_SHAPES: dict[str, _Shape] = {
    # Chosen to stay under 12 MB in bf16; head size 64 is what vLLM's kernels take.
    "tiny": _Shape(256, 4, heads=4, mlp=448, vision=192, vision_layers=4, head_size=64),
    # For tests: every part is there, nothing is learned.
    "micro": _Shape(64, 2, heads=2, mlp=96, vision=64, vision_layers=2, head_size=32),
}

POSITION_SCALE = 2.0
"""Of the position embeddings at the start, about twice what the patch embedding gives."""


def build_tiny(
    texts: Iterable[str], seed: int = 0, family: Family = "qwen3_vl", size: Size = "tiny"
) -> tuple[Any, Any]:
    """Build an untrained tiny vision-language model and its processor.

    Args:
        texts: what the model will read and write; their words become single tokens.
        seed: of the random weights.
        family: ``qwen3_vl`` (learned absolute positions, the one that learns positions) or
            ``qwen2_5_vl`` (the family of the paper, as a fixture).
        size: ``tiny`` (about 6 million weights) or ``micro`` for tests.

    Returns:
        Model (float32, on the CPU) and processor.
    """
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(seed)
    build = {"qwen3_vl": _qwen3_vl, "qwen2_5_vl": _qwen2_5_vl}[family]
    model, processor = build(tokenizer, _SHAPES[size])
    if family == "qwen3_vl":
        fourier_integers(model.model.language_model.embed_tokens.weight, seed=seed)
        fourier_positions(model.model.visual.pos_embed.weight)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor


def _qwen3_vl(tokenizer: Any, shape: _Shape) -> tuple[Any, Any]:
    text = _text_settings(tokenizer, shape) | {
        "head_dim": shape.head_size,
        "rope_parameters": _rope(shape) | {"mrope_interleaved": True},
    }
    vision = _vision_settings(shape) | {
        "patch_size": 16,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [shape.vision_layers // 2 - 1],
    }
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **_token_ids(tokenizer)
    )
    processor = Qwen3VLProcessor(
        image_processor=_image_processor(patch=16),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=tokenizer.chat_template,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _qwen2_5_vl(tokenizer: Any, shape: _Shape) -> tuple[Any, Any]:
    text = _text_settings(tokenizer, shape) | {"rope_parameters": _rope(shape)}
    vision = _vision_settings(shape) | {
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **_token_ids(tokenizer)
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=_image_processor(patch=14),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14, merge_size=2),
        chat_template=tokenizer.chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _token_ids(tokenizer: Any) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def _text_settings(tokenizer: Any, shape: _Shape) -> dict[str, Any]:
    return {
        "vocab_size": 64 * math.ceil(len(tokenizer) / 64),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2,
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def _rope(shape: _Shape) -> dict[str, Any]:
    # Three sections of the rotary half: time, height, width.
    head = shape.head_size
    section = [head // 8, head * 3 // 16, head * 3 // 16]
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}


def _vision_settings(shape: _Shape) -> dict[str, Any]:
    return {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision,
        "num_heads": shape.vision // shape.head_size,
        "intermediate_size": 2 * shape.vision,
        "out_hidden_size": shape.hidden,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }


def fourier_integers(weight: torch.Tensor, seed: int, span: int = 512) -> None:
    """Start the integer tokens as smooth functions of their value, so that coordinates interpolate.

    The roles of an integer share these functions and differ by a constant.

    Args:
        weight: embedding matrix of the tiny tokenizer. Changed in place.
        seed: of the random projection.
        span: range of coordinates in which frequencies are counted in cycles.
    """
    # Source: ours; .25 to 32 cycles per range separate neighbours and keep far values apart.
    frequencies = torch.logspace(math.log10(0.25), math.log10(32), 32)
    phase = 2 * math.pi * torch.arange(MAX_INTEGER + 1)[:, None] / span * frequencies
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(waves.shape[1], weight.shape[1], generator=generator)
    rows = waves @ projection
    with torch.no_grad():
        for before, ids in INTEGER_ROLES.items():
            own = torch.randn(weight.shape[1], generator=generator) if before else 0.0
            weight[ids.start : ids.stop] = (rows[: len(ids)] / rows.std() + own) * 0.02


def fourier_positions(weight: torch.Tensor) -> None:
    """Start the position embeddings of a vision tower as smooth functions of row and column.

    From random ones, each position learns on its own where it is: after 175 steps of a tower and
    its dense head the edges' loss was 4.7, from these 3.5 (source: ours, measured).

    Args:
        weight: table of a square grid, row by row, (side * side, d). Changed in place.
    """
    side, width = math.isqrt(len(weight)), weight.shape[1]
    frequencies = torch.logspace(math.log10(0.25), math.log10(side / 2), width // 4)
    phase = 2 * math.pi * (torch.arange(side)[:, None] + 0.5) / side * frequencies
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = (
        waves[:, None].expand(side, side, -1),
        waves[None].expand(side, side, -1),
    )
    with torch.no_grad():
        weight.copy_(POSITION_SCALE * torch.cat([rows, columns], dim=-1).flatten(0, 1))


def _image_processor(patch: int) -> Any:
    return Qwen2VLImageProcessor(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": (2 * patch) ** 2, "longest_edge": 1024 * (2 * patch) ** 2},
    )
