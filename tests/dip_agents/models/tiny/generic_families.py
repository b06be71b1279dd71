"""Tiny random models of other families with their real classes, to test the generic path on.

Loaded by ``tests/dip_agents/conftest.py``, whose fixture ``build_generic`` gives the function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from transformers import (
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from dip_agents.models.tiny.tokenizer import build_tokenizer

GenericFamily = Literal["llava", "idefics3", "internvl", "gemma3"]

SIDE, PATCH = 56, 14
"""Pictures of 56x56 pixels, 4x4 patches."""
_TOKENS: dict[str, dict[str, str]] = {
    "llava": {"image_token": "<image>"},
    "idefics3": {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    },
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
}
_PLACEHOLDERS = {"llava": "<image>", "idefics3": "<image>", "internvl": "<IMG_CONTEXT>"}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def build_generic(
    texts: Iterable[str], family: GenericFamily = "llava", seed: int = 0
) -> tuple[Any, Any]:
    """Build an untrained model of about 200 000 weights and its processor.

    Args:
        texts: what it will read and write; their words become single tokens.
        family: ``llava`` (CLIP tower, Llama), ``idefics3`` (SigLIP-like tower, Llama; SmolVLM is
            the same), ``internvl`` (InternViT, Qwen2) or ``gemma3`` (SigLIP, windows of
            attention, images attended to in both directions).
        seed: of the random weights.

    Returns:
        Model (float32, on the CPU, in eval mode) and processor.
    """
    tokenizer = _tokenizer(texts, family)
    torch.manual_seed(seed)
    build = {"llava": _llava, "idefics3": _idefics3, "internvl": _internvl, "gemma3": _gemma3}
    model, processor = build[family](tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor


def _tokenizer(texts: Iterable[str], family: str) -> PreTrainedTokenizerFast:
    base = build_tokenizer(texts)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        pad_token=base.pad_token,
        eos_token=base.eos_token,
        extra_special_tokens=_TOKENS[family],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    placeholder = _PLACEHOLDERS.get(family, "<start_of_image>")
    tokenizer.chat_template = str(base.chat_template).replace(_QWEN_IMAGE, placeholder)
    return tokenizer


def _text(tokenizer: Any, model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": 64 * math.ceil((len(tokenizer) + 16) / 64),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def _vision(model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    config = LlavaConfig(
        vision_config=_vision("clip_vision_model") | {"projection_dim": 32},
        text_config=_text(tokenizer, "llama"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _idefics3(tokenizer: Any) -> tuple[Any, Any]:
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer=tokenizer,
        image_seq_len=(SIDE // PATCH // 2) ** 2,
        chat_template=tokenizer.chat_template,
    )
    config = Idefics3Config(
        vision_config=_vision("idefics3_vision"),
        text_config=_text(tokenizer, "llama"),  # after the processor has added its tokens
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _internvl(tokenizer: Any) -> tuple[Any, Any]:
    tokens = (SIDE // PATCH // 2) ** 2
    config = InternVLConfig(
        vision_config=_vision("internvl_vision"),
        text_config=_text(tokenizer, "qwen2"),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=True,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size={"height": SIDE, "width": SIDE}),
        image_seq_length=tokens,
        chat_template=tokenizer.chat_template,
    )
    return InternVLForConditionalGeneration(config), processor


def _gemma3(tokenizer: Any) -> tuple[Any, Any]:
    config = Gemma3Config(
        vision_config=_vision("siglip_vision_model"),
        text_config=_text(tokenizer, "gemma3_text")
        | {
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,  # shorter than any prompt, so that it matters
            "layer_types": ["sliding_attention", "full_attention"],
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        mm_tokens_per_image=4,
        tie_word_embeddings=True,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    model = Gemma3ForConditionalGeneration(config)
    # Zeros at first: such a model would not see its images.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    return model, processor
