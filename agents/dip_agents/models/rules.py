"""The episode rules that fit a model, read without its weights or torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dip_agents.models.files import check_folder, read_config, reading
from dip_env.config import CoordinateFormat, EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError

RULES_FILE = "dip_env.json"
"""Beside the weights: the episode rules the model was trained under."""
BUNDLED = Path(__file__).parent / "tiny" / "weights"
TINY_RULES = EpisodeConfig(
    view_size=384,
    crop_size=256,
    magnification=4.0,
    size_multiple=32,
    max_looks=1,
    max_regions=3,
    max_turns=3,
    minimal_prompt=True,
    reward=RewardConfig(look_weight=0.3, accuracy_weight=0.6, look_floor=1.0),
)
"""Rules of the tiny model: two turns fit into some hundred tokens, and looks decide."""

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]


def rules_of(name: str) -> EpisodeConfig:
    """Return the episode rules of a model without loading its weights.

    Args:
        name: as for ``load_model``.

    Returns:
        The rules it was trained under, or fitting defaults of its family.

    Raises:
        ConfigError: when there is no such model.
    """
    folder = BUNDLED if name == "tiny" else Path(name)
    if (folder / RULES_FILE).is_file():
        return read_rules(folder / RULES_FILE)
    if name in ("tiny", "tiny-untrained"):
        return TINY_RULES
    # Only for a model that brings no rules: seconds of imports, and a hub name asks the network.
    check_folder(name)
    config = read_config(name)
    with reading(name):
        return family_rules(config)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected episode rules as JSON, got: {error}") from error


@dataclass(frozen=True)
class Family:
    """What is known of a model family that has a forward pass and a decode loop of its own.

    Args:
        coordinate_format: the numbers it was trained to print for places in an image.
    """

    coordinate_format: CoordinateFormat


QWEN_VL: Mapping[str, Family] = {
    "qwen2_vl": Family("norm1000"),
    "qwen2_5_vl": Family("pixel"),
    "qwen3_vl": Family("norm1000"),
}
"""Families of ``VLM`` and ``HFEngine`` by model type."""


def family_rules(config: Any) -> EpisodeConfig:
    """Return rules that fit a model family: its patch multiple and its coordinates."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        raise ConfigError(
            f"model: expected one with images (a vision_config), got {config.model_type}"
        )
    family = QWEN_VL.get(config.model_type)
    if family is None:
        # Each image is resized to one fixed size: more pixels would be lost, and coordinates in
        # thousandths of a side stay valid when the proportions change.
        size = getattr(vision, "image_size", None) or 448
        side = max(32, int(size if isinstance(size, int) else min(size)))
        return EpisodeConfig(view_size=side, crop_size=side, coordinate_format="norm1000")
    multiple = int(vision.patch_size * vision.spatial_merge_size)
    return EpisodeConfig(size_multiple=multiple, coordinate_format=family.coordinate_format)
