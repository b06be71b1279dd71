"""Where scenes come from: made up, read from disk, or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.coco import CocoScenes
from dip_env.scenes.procedural import PRESETS, ProceduralCrowd
from dip_env.scenes.toy import ToyScenes

__all__ = ["CocoScenes", "ProceduralCrowd", "Scene", "SceneSource", "ToyScenes", "make_source"]

SOURCES = (*PRESETS, "procedural", "coco", "toy")
"""Every name that ``make_source`` knows; ``procedural`` is another word for ``crowd``."""


def make_source(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    seed: int = 0,
    **kwargs: Any,
) -> SceneSource:
    """Return a source of scenes by its name.

    Args:
        name: a procedural preset, or a reader (``coco``), or ``toy``.
        root: folder of the data, for readers.
        split: part of the data; parts never share a scene in procedural sources.
        seed: seed of a procedural source; readers have none.
        **kwargs: further arguments of the source's class.

    Returns:
        The source.

    Raises:
        ConfigError: for an unknown name, or a root where no files are read.
        SceneError: for files that are missing or malformed.
    """
    if name == "coco":
        return CocoScenes(root, split=split, **kwargs)
    if root is not None:
        raise ConfigError(f"root: expected none, as {name!r} reads no files, got {str(root)!r}")
    if name == "toy":
        return ToyScenes(**kwargs)
    if name in PRESETS or name == "procedural":
        preset = "crowd" if name == "procedural" else name
        return ProceduralCrowd(preset, seed=seed, split=split, **kwargs)
    raise ConfigError(f"scenes: expected one of {', '.join(SOURCES)}, got {name!r}")
