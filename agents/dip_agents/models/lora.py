"""Adapters of a model: whether it has one, what it holds, and how to add one."""

from __future__ import annotations

from typing import Any

import torch

LANGUAGE_LINEARS = (
    r".*(language_model|text_model)\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Where LoRA goes; a plain list of suffixes would hit the vision tower too."""


def has_adapter(model: Any) -> bool:
    """Return whether a model is PEFT's wrapper around another one."""
    return hasattr(model, "get_base_model")


def base_model(model: Any) -> Any:
    """Return the transformers model inside a possible PEFT wrapper."""
    return model.get_base_model() if has_adapter(model) else model


def adapter_rank(model: Any) -> int:
    """Return the rank of a model's active LoRA, 0 for a model without an adapter."""
    return int(model.peft_config[model.active_adapter].r) if has_adapter(model) else 0


def is_adapter_weight(name: str) -> bool:
    """Return whether a parameter of this name belongs to a LoRA."""
    return "lora_" in name


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """Return a model around ``model`` of which only a new LoRA on the language part learns.

    Args:
        model: of transformers; its linear layers are replaced in place.
        rank: at least 1.
        seed: of the new weights.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE_LINEARS)
    return get_peft_model(model, config)
