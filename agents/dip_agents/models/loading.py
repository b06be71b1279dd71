"""Load and save models by name, with the episode rules they were trained under."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.files import (
    check_folder,
    check_loaded,
    check_name,
    check_size,
    no_model,
    read_config,
    reading,
)
from dip_agents.models.generic_vlm import GenericVLM, check_kind
from dip_agents.models.lora import add_lora, base_model
from dip_agents.models.rules import (
    BUNDLED,
    QWEN_VL,
    RULES_FILE,
    TINY_RULES,
    DeviceName,
    DtypeName,
    family_rules,
    read_rules,
)
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import write_checkpoint
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.chat import check_processor
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.messages import Message


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready for sampling and training.

    Args:
        vlm: the model.
        rules: the episode rules it was trained under, or fitting defaults of its family.
        trained: False for random weights, which need demonstrations first.
    """

    vlm: VisionLanguageModel
    rules: EpisodeConfig
    trained: bool


def load_model(
    name: str,
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    lora_rank: int = 0,
    freeze_vision: bool = False,
    seed: int = 0,
) -> LoadedModel:
    """Load a model by name.

    Args:
        name: ``tiny`` (bundled, trained by the project), ``tiny-untrained`` (same shape, random
            weights), a folder written by ``save_model`` or ``save_pretrained``, or a hub name.
        device: ``auto`` takes the GPU when there is one.
        dtype: of matrix products; ``auto`` is bfloat16 where the hardware has it.
        lora_rank: above 0 only a LoRA of that rank on the language part learns.
        freeze_vision: the vision tower and its projector do not learn, so that each image is
            encoded once a step and no gradient goes through it.
        seed: of random weights and of a new LoRA.

    Returns:
        The model, in eval mode.

    Raises:
        ConfigError: for a name that is neither known nor a folder nor on the hub's cache, a
            device that is not there, a rank below 0, or a model without a vision tower that could
            be frozen.
    """
    if lora_rank < 0:
        raise ConfigError(f"lora_rank: expected a number >= 0, got {lora_rank}")
    target = _device(device)
    compute = _compute_dtype(dtype, target)
    rules: EpisodeConfig | None = TINY_RULES
    trained = True
    if name == "tiny-untrained" or (name == "tiny" and not (BUNDLED / RULES_FILE).is_file()):
        model, processor = build_tiny(tiny_texts(), seed=seed)
        trained = False
    else:
        model, processor, rules = _from_pretrained(BUNDLED if name == "tiny" else name)
    if lora_rank > 0:
        model = add_lora(model, lora_rank, seed)
    if freeze_vision:
        if not trained:
            raise ConfigError(f"freeze_vision: expected a trained model, got {name}")
        vision_tower(model).requires_grad_(False)
    if compute is not None and target.type == "cuda":
        # Frozen weights need no fp32 master copy; those that learn keep theirs.
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(compute)
    with reading(name):
        vlm = _wrapped(model.to(target).eval(), processor, compute)
        _check_forward(name, vlm)
    return LoadedModel(vlm, rules or family_rules(vlm.core.config), trained)


def save_model(
    vlm: VisionLanguageModel, folder: Path | str, rules: EpisodeConfig, *, half: bool = False
) -> Path:
    """Write a model so that ``load_model`` and transformers' Auto classes can read it.

    Args:
        vlm: the model; a LoRA is merged into the copy that is written.
        folder: where to; made when missing.
        rules: the episode rules it was trained under.
        half: write weights as bfloat16.

    Returns:
        The folder.
    """
    folder = write_checkpoint(vlm, folder, half=half)
    (folder / RULES_FILE).write_text(json.dumps(asdict(rules), indent=2) + "\n", encoding="utf-8")
    return folder


def vision_tower(model: Any) -> nn.Module:
    """Return the part of a transformers model that encodes images, with its projector in Qwen-VL.

    Args:
        model: the model, or PEFT's wrapper around it.

    Raises:
        ConfigError: when transformers finds no such part.
    """
    model = base_model(model)
    tower: nn.Module = model.get_encoder(modality="image")
    if tower is model:
        raise ConfigError(
            f"freeze_vision: expected a model with a vision tower, got {type(model).__name__}"
        )
    return tower


def _device(name: DeviceName) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected cpu, since no CUDA device is there; got cuda")
    return torch.device(name)


def _compute_dtype(name: DtypeName, device: torch.device) -> torch.dtype | None:
    if name == "float32":
        return None
    if name == "auto" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        return None  # emulated bfloat16 is slower than float32
    return torch.bfloat16


def _from_pretrained(name: Path | str) -> tuple[Any, Any, EpisodeConfig | None]:
    """Return model, processor and rules; what is small is read and checked before the weights."""
    check_name(str(name))
    check_folder(name)
    file = Path(name) / RULES_FILE
    rules = read_rules(file) if file.is_file() else None
    config = read_config(name)
    with reading(name):
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        check_processor(processor)
        with torch.device("meta"):
            described = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        check_kind(described)
        check_size(name, described)
        model, info = AutoModelForImageTextToText.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named with all others
        )
    check_loaded(name, model, info)
    return model, processor, rules


@torch.no_grad()
def _check_forward(name: str, vlm: VisionLanguageModel) -> None:
    """Check that a model reads an image and a word: its config may not fit its weights."""
    if vlm.native_engine == "generic":  # has done so
        return
    side = vlm.chat.patch * vlm.chat.merge
    picture = np.zeros((side, side, 3), dtype=np.uint8)
    buffer = TokenBuffer(vlm.image_token_id)
    buffer.append_env(*vlm.chat.opening([Message("user", "1", (picture,))]))
    if not bool(torch.isfinite(vlm.hidden([buffer])).all()):
        raise no_model(name, "expected finite states of an image and a word, got NaN or infinity")


def _wrapped(model: Any, processor: Any, compute: torch.dtype | None) -> VisionLanguageModel:
    """Return the fast implementation where it covers the family, else the generic one."""
    family = model.config.model_type
    if family in QWEN_VL:
        return VLM(model, processor, compute)
    logging.getLogger(__name__).warning(
        "model family %s: no shared prefix and no fast decode loop, so sampling and updates are "
        "slower than with %s",
        family,
        ", ".join(QWEN_VL),
    )
    return GenericVLM(model, processor, compute)
