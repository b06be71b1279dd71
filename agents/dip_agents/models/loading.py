"""Load and save models by name, with the episode rules they were taught under."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from dip_agents.models.generic_vlm import GenericVLM
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import write_checkpoint
from dip_env import prompts
from dip_env.actions import Grammar
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.views import Crop, View

RULES_FILE = "dip_env.json"
"""Beside the weights: the episode rules the model was taught under."""
BUNDLED = Path(__file__).parent / "tiny" / "weights"
TINY_RULES = EpisodeConfig(
    view_size=384,
    crop_size=128,
    size_multiple=32,
    max_looks=1,
    max_regions=3,
    max_turns=3,
    minimal_prompt=True,
)
"""Rules of the tiny model: two turns fit into some hundred tokens."""
LANGUAGE_LINEARS = (
    r".*(language_model|text_model)\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Where LoRA goes; a plain list of suffixes would hit the vision tower too."""
QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families with a forward pass and a decode loop of their own (``VLM``, ``HFEngine``)."""

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to act or to learn.

    Args:
        vlm: the model.
        rules: the episode rules it was taught under, or fitting defaults of its family.
        trained: False for random weights, which need demonstrations first.
    """

    vlm: VLM
    rules: EpisodeConfig
    trained: bool


def load_model(
    name: str,
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    lora_rank: int = 0,
    seed: int = 0,
) -> LoadedModel:
    """Load a model by name.

    Args:
        name: ``tiny`` (bundled, taught by the project), ``tiny-untrained`` (same shape, random
            weights), a folder written by ``save_model`` or ``save_pretrained``, or a hub name.
        device: ``auto`` takes the GPU when there is one.
        dtype: of matrix products; ``auto`` is bfloat16 where the hardware has it.
        lora_rank: above 0 only a LoRA of that rank on the language part learns.
        seed: of random weights and of a new LoRA.

    Returns:
        The model, in eval mode.

    Raises:
        ConfigError: for a name that is neither known nor a folder nor on the hub's cache, a
            device that is not there, or a rank below 0.
    """
    if lora_rank < 0:
        raise ConfigError(f"lora_rank: expected a number >= 0, got {lora_rank}")
    place = _device(device)
    compute = _compute_dtype(dtype, place)
    rules: EpisodeConfig | None = TINY_RULES
    trained = True
    if name == "tiny-untrained" or (name == "tiny" and not (BUNDLED / RULES_FILE).is_file()):
        model, processor = build_tiny(tiny_texts(), seed=seed)
        trained = False
    else:
        model, processor, rules = _from_pretrained(BUNDLED if name == "tiny" else name)
    if lora_rank > 0:
        model = _with_lora(model, lora_rank, seed)
        if compute is not None and place.type == "cuda":
            # Frozen weights need no fp32 master copy; the adapters keep theirs.
            for parameter in model.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(compute)
    vlm = _wrapped(model.to(place).eval(), processor, compute)
    return LoadedModel(vlm, rules or _family_rules(vlm.core.config), trained)


def rules_of(name: str) -> EpisodeConfig:
    """Return the episode rules of a model without loading its weights.

    Args:
        name: as for ``load_model``.

    Returns:
        The rules it was taught under, or fitting defaults of its family.

    Raises:
        ConfigError: when there is no such model.
    """
    folder = BUNDLED if name == "tiny" else Path(name)
    if (folder / RULES_FILE).is_file():
        return read_rules(folder / RULES_FILE)
    if name in ("tiny", "tiny-untrained"):
        return TINY_RULES
    _check_name(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _no_model(name, error) from error
    return _family_rules(config)


def save_model(vlm: VLM, folder: Path | str, rules: EpisodeConfig, *, half: bool = False) -> Path:
    """Write a model so that ``load_model`` and transformers' Auto classes can read it.

    Args:
        vlm: the model; a LoRA is merged into the copy that is written.
        folder: where to; made when missing.
        rules: the episode rules it was taught under.
        half: write weights as bfloat16.

    Returns:
        The folder.
    """
    folder = write_checkpoint(vlm, folder, half=half)
    (folder / RULES_FILE).write_text(json.dumps(asdict(rules), indent=2) + "\n", encoding="utf-8")
    return folder


def read_rules(path: Path) -> EpisodeConfig:
    """Read the episode rules beside a model's weights.

    Args:
        path: a ``dip_env.json``.

    Returns:
        The rules.

    Raises:
        ConfigError: when it is no JSON object of known settings; names the file.
    """
    try:
        flat = json.loads(path.read_text(encoding="utf-8"))
        reward = flat.pop("reward")
        return EpisodeConfig.from_keywords({**flat, **reward})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ConfigError(f"{path}: expected episode rules as JSON, got: {error}") from error


def tiny_texts() -> list[str]:
    """Return texts whose words become single tokens of the tiny model: all that is ever said."""
    view = View((1280, 960), (256, 192))
    crop = Crop(image=None, region=view.text_to_scene([[0, 0, 9, 9]])[0], magnification=2.0)  # type: ignore[arg-type]
    grammar = Grammar(3)
    texts = []
    for looks in (0, 1, 2):
        config = EpisodeConfig(max_looks=looks, max_turns=looks + 1)
        texts.append(prompts.task_prompt(view, config, grammar))
        texts.append(prompts.crops_message([crop], view, looks, looks))
        texts.append(prompts.task_prompt(view, replace(config, minimal_prompt=True), grammar))
        texts.append(prompts.crops_message([crop], view, looks, looks, minimal_prompt=True))
    norm = EpisodeConfig(coordinate_format="norm1000")
    texts.append(prompts.task_prompt(view, norm, grammar))
    texts.append(prompts.nudge_message(1, 2))
    texts.append(prompts.error_message(ValueError("expected a look or an answer, got text"), 1, 1))
    # What the oracle thinks in its demonstrations.
    return [*texts, "3 people, 1 unclear."]


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
    _check_name(str(name))
    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise _no_model(name, error) from error
    rules = Path(name) / RULES_FILE
    return model, processor, read_rules(rules) if rules.is_file() else None


def _wrapped(model: Any, processor: Any, compute: torch.dtype | None) -> VLM:
    """Return the fast road for the families it knows, else the generic one, and say so."""
    family = model.config.model_type
    if family in QWEN_VL:
        return VLM(model, processor, compute)
    logging.getLogger(__name__).warning(
        "model family %s: no shared prefix and no own decode loop, so sampling and updates are "
        "slower than with %s",
        family,
        ", ".join(QWEN_VL),
    )
    return GenericVLM(model, processor, compute)


def _check_name(name: str) -> None:
    """Refuse at once what can be no hub name, instead of asking a network for it."""
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise _no_model(name, "no such folder")


def _no_model(name: Path | str, reason: object) -> ConfigError:
    return ConfigError(
        f"model: expected tiny, tiny-untrained, a folder or a hub name, got {str(name)!r}: {reason}"
    )


def _with_lora(model: Any, rank: int, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE_LINEARS)
    return get_peft_model(model, config)


def _family_rules(config: Any) -> EpisodeConfig:
    """Return rules that fit a model family: its patch multiple and its coordinates."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        raise ConfigError(
            f"model: expected one that sees (a vision_config), got {config.model_type}"
        )
    if config.model_type not in QWEN_VL:
        # Each image becomes one picture of a fixed size: more pixels would be thrown away, and
        # thousandths of a side are what survives the change of proportions.
        size = getattr(vision, "image_size", None) or 448
        side = max(32, int(size if isinstance(size, int) else min(size)))
        return EpisodeConfig(view_size=side, crop_size=side, coordinate_format="norm1000")
    multiple = int(vision.patch_size * vision.spatial_merge_size)
    relative = config.model_type.startswith("qwen3")
    return EpisodeConfig(
        size_multiple=multiple,
        coordinate_format="norm1000" if relative else "pixel",
    )
