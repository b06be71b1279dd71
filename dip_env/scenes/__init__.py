"""Where scenes come from: made up, read from disk, or the user's own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.procedural.source import PRESETS, ProceduralCrowd
from dip_env.scenes.readers.citypersons import CityPersonsScenes
from dip_env.scenes.readers.coco import CocoScenes
from dip_env.scenes.readers.crowdhuman import CrowdHumanScenes
from dip_env.scenes.readers.uavdt import UAVDTScenes
from dip_env.scenes.readers.wider_pedestrian import WiderPedestrianScenes
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.filtered import FilteredScenes
from dip_env.scenes.transforms.hash_split import HashSplit
from dip_env.scenes.transforms.mixed import MixedScenes
from dip_env.scenes.transforms.streamed import stream_scenes

__all__ = [
    "CityPersonsScenes",
    "CocoScenes",
    "CrowdHumanScenes",
    "FilteredScenes",
    "HashSplit",
    "MixedScenes",
    "ProceduralCrowd",
    "Scene",
    "SceneSource",
    "ToyScenes",
    "UAVDTScenes",
    "WiderPedestrianScenes",
    "make_source",
    "stream_scenes",
]

READERS: Mapping[str, type] = {
    "crowdhuman": CrowdHumanScenes,
    "citypersons": CityPersonsScenes,
    "wider_pedestrian": WiderPedestrianScenes,
    "uavdt": UAVDTScenes,
    "coco": CocoScenes,
}
"""Data sets on disk by name."""

SOURCES = (*PRESETS, "procedural", *READERS, "toy")
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
        name: a procedural preset, or a reader (one of ``READERS``), or ``toy``.
        root: folder of the data, for readers; ``~`` is the home folder.
        split: part of the data; parts never share a scene in procedural sources.
        seed: seed of a procedural source; readers have none.
        **kwargs: further arguments of the source's class.

    Returns:
        The source.

    Raises:
        ConfigError: for an unknown name or argument, or a root where no files are read.
        SceneError: for files that are missing or malformed.
    """
    if name in READERS:
        known = sorted(set(inspect.signature(READERS[name]).parameters) - {"root", "split"})
        for key in kwargs:
            if key not in known:
                raise ConfigError(f"{name}: unknown argument {key!r}; expected one of {known}")
        if not isinstance(root, str | Path | None):
            raise ConfigError(f"root: expected a path, got {root!r}")
        # Nobody else turns ~ into the home folder: a shell leaves --root=~/data alone.
        folder = None if root is None else os.path.expanduser(root)
        if folder is not None and not os.path.isdir(folder):
            raise SceneError(f"{folder}: expected the folder of the data, which is missing")
        source: SceneSource = READERS[name](folder, split=split, **kwargs)
        return source
    if root is not None:
        raise ConfigError(f"root: expected none, as {name!r} reads no files, got {str(root)!r}")
    if name == "toy":
        return ToyScenes(**kwargs)
    if name in PRESETS or name == "procedural":
        preset = "crowd" if name == "procedural" else name
        return ProceduralCrowd(preset, seed=seed, split=split, **kwargs)
    raise ConfigError(f"scenes: expected one of {', '.join(SOURCES)}, got {name!r}")
