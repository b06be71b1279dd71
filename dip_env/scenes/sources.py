"""Sources by name, and the error for a name that does not exist."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# The package resolves its names on use, so only the requested source is imported.
import dip_env.scenes as scenes
from dip_env.checks import check_integer
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.base import SPLITS, SceneSource
from dip_env.scenes.procedural.parameters import PRESETS

READERS: Mapping[str, str] = {
    "crowdhuman": "CrowdHumanScenes",
    "citypersons": "CityPersonsScenes",
    "wider_pedestrian": "WiderPedestrianScenes",
    "uavdt": "UAVDTScenes",
    "coco": "CocoScenes",
}
"""Classes of ``dip_env.scenes`` that read a data set from disk, by name."""

SOURCES = (*PRESETS, "procedural", *READERS, "toy")
"""Every name that ``make_source`` accepts; ``procedural`` is another name for ``crowd``."""


def make_source(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    seed: int = 0,
    **kwargs: Any,
) -> SceneSource:
    """Return a source of scenes by its name.

    Args:
        name: a procedural preset, a reader (a key of ``READERS``), or ``toy``.
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
    if name not in SOURCES:
        close = get_close_matches(name, SOURCES, n=1) if isinstance(name, str) else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"scenes: expected one of {', '.join(SOURCES)}, got {name!r}{hint}")
    if not isinstance(split, str):
        raise ConfigError(f"split: expected a name, got {split!r}")
    if name in READERS:
        return _open_reader(name, root, split, kwargs)
    if root is not None:
        raise ConfigError(f"root: expected none, as {name!r} reads no files, got {str(root)!r}")
    seed = check_integer("scene_seed", seed, 0)
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if name == "toy":
        if kwargs:
            raise ConfigError(f"toy: unknown argument {min(kwargs)!r}; expected none")
        return scenes.ToyScenes()
    preset = "crowd" if name == "procedural" else name
    return scenes.ProceduralCrowd(preset, seed=seed, split=split, **kwargs)


def read_arguments(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Read arguments of a source as they are typed on a command line.

    Args:
        name: of the source, as for ``make_source``.
        texts: values by argument. One that takes a path or a name is text as it stands, one that
            takes a list of names may be written ``a,b``, ``[a,b]`` or as JSON. Any other may be
            JSON (``[60,90]``), several values behind commas (``60,90``), or text.

    Returns:
        Values by argument.
    """
    hints: Mapping[str, Any] = {}
    if name in READERS:
        hints = get_type_hints(getattr(scenes, READERS[name]).__init__)
    return {key: _typed(text, hints.get(key)) for key, text in texts.items()}


def _typed(text: str, hint: Any) -> Any:
    """Return the value that a text stands for where an argument of a type is expected."""
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    if kinds <= {str, Path, NoneType}:
        return text
    value = _from_json(text)
    if isinstance(value, list) or value is None:
        return value
    if any(get_origin(kind) is Collection for kind in kinds):
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return [part.strip().strip("'\"") for part in inner.split(",")]
    if "," in text:
        return [_from_json(part) for part in text.split(",")]
    return value


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _open_reader(
    name: str, root: str | Path | None, split: str, kwargs: Mapping[str, Any]
) -> SceneSource:
    """Check the arguments of a reader and open its data set."""
    reader = getattr(scenes, READERS[name])
    known = sorted(set(inspect.signature(reader).parameters) - {"root", "split"})
    for key in kwargs:
        if key not in known:
            raise ConfigError(f"{name}: unknown argument {key!r}; expected one of {known}")
    if not isinstance(root, str | Path | None):
        raise ConfigError(f"root: expected a path, got {root!r}")
    # Nothing else expands ~ to the home folder: a shell leaves --root=~/data alone.
    folder = None if root is None else os.path.expanduser(root)
    if folder is not None and not os.path.isdir(folder):
        raise SceneError(f"{folder}: expected the folder of the data, which is missing")
    source: SceneSource = reader(folder, split=split, **kwargs)
    return source
