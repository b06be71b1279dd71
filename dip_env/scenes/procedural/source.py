"""An endless source of procedurally drawn crowds."""

from __future__ import annotations

import operator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dip_env.checks import check_integer
from dip_env.errors import ConfigError
from dip_env.scenes.base import SPLITS, Scene
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.scene import Drawing, draw_scene
from dip_env.scenes.procedural.parameters import PRESETS, CrowdParameters

__all__ = ["DRAWING_VERSION", "LENGTH", "PRESETS", "SPLITS", "CrowdParameters", "ProceduralCrowd"]

LENGTH = 2**31 - 1
"""How many scenes every source has."""
DRAWING_VERSION = 2
"""Incremented when the same item is drawn differently, so that stored scenes do not mix."""


class ProceduralCrowd:
    """An endless, deterministic source of drawn crowds; item i depends on (seed, split, i) only.

    Args:
        preset: a name from ``PRESETS``.
        seed: of the source, a non-negative integer.
        split: train, val or test; splits share no scene.
        **overrides: fields of ``CrowdParameters`` that replace those of the preset.

    Raises:
        ConfigError: for an unknown preset, split or field, or a value that cannot work.

    Source: ours. A box is that of the whole body with clothes, hair and hat; bags and umbrellas
    hide people but belong to no box. What lies outside the image counts as hidden.
    """

    def __init__(
        self, preset: str = "crowd", seed: int = 0, split: str = "train", **overrides: Any
    ) -> None:
        """Check and store the settings."""
        if preset not in PRESETS:
            raise ConfigError(f"preset: expected one of {sorted(PRESETS)}, got {preset!r}")
        if split not in SPLITS:
            raise ConfigError(f"split: expected one of {list(SPLITS)}, got {split!r}")
        known = [f.name for f in fields(CrowdParameters)]
        for name in overrides:
            if name not in known:
                raise ConfigError(f"unknown parameter {name!r}; expected one of {sorted(known)}")
        self.preset = preset
        self.seed = check_integer("seed", seed, 0)
        self.split = split
        self.parameters = replace(PRESETS[preset], **overrides)

    def __repr__(self) -> str:
        """Return everything that the scenes depend on."""
        changed = [
            f"{field.name}={value!r}"
            for field in fields(CrowdParameters)
            if (value := getattr(self.parameters, field.name))
            != getattr(PRESETS[self.preset], field.name)
        ]
        choices = [repr(self.preset), f"seed={self.seed}", f"split={self.split!r}", *changed]
        return f"ProceduralCrowd({', '.join(choices)}) version {DRAWING_VERSION}"

    def __len__(self) -> int:
        """Return the number of scenes, 2**31 - 1."""
        return LENGTH

    def __getitem__(self, index: int) -> Scene:
        """Draw scene ``index`` and measure its ground truth on the drawn masks.

        Raises:
            IndexError: outside ``range(len(self))``; negative indices have no meaning here.
        """
        number = operator.index(index)
        if not 0 <= number < LENGTH:
            raise IndexError(f"scene index: expected 0 to {LENGTH - 1}, got {number}")
        drawing = draw_scene(
            self.parameters, SceneRandom(self.seed, SPLITS.index(self.split), number)
        )
        name = f"{self.preset}-{self.seed}-{self.split}-{number}"
        return as_scene(name, drawing, self.parameters.hidden_share)


def as_scene(name: str, drawing: Drawing, hidden_share: float) -> Scene:
    """Turn a drawing into a scene.

    Args:
        name: of the scene.
        drawing: image and measured ground truth.
        hidden_share: people with a smaller visible share are ignored.

    Returns:
        The scene; fully hidden people are left out and counted in its notes.
    """
    truth, image = drawing.truth, drawing.image
    kept = [k for k, box in enumerate(truth.visible) if box is not None]
    regions = list(drawing.regions)
    boxes = [truth.boxes[k] for k in kept] + regions
    visible = [truth.visible[k] for k in kept] + regions
    shares = [truth.shares[k] for k in kept] + [1.0] * len(regions)
    ignore = [truth.shares[k] < hidden_share for k in kept] + [True] * len(regions)
    return Scene(
        scene_id=name,
        size=image.size,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        visible_boxes=np.array(visible, dtype=np.float32).reshape(-1, 4),
        visible_share=np.array(shares, dtype=np.float32),
        ignore=np.array(ignore, dtype=np.bool_),
        labels=("person",) * len(kept) + ("crowd",) * len(regions),
        load_image=partial(_held, image),
        notes={**drawing.notes, "unseen": len(truth.boxes) - len(kept)},
    )


def _held(image: Image.Image) -> Image.Image:
    return image
