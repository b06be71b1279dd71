"""Recorded episodes and their format on disk; reads only.

A folder holds ``turns-0000.jsonl``, ``turns-0001.jsonl``, ... (one file for each writer, so that
runs and workers never write into each other's) and ``images/``. Every line is one JSON object with
``kind`` and ``episode``:

- ``start``: scene, config, seed, source, group, control, the first message, the overview;
- ``turn``: the action, the message and crops that came back, reward, info;
- ``end``: total reward, reward terms, and the ground truth the episode was scored with.

Images are written before the line that names them and every line reaches the file in one write, so
a crash costs at most the line being written.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import DipError
from dip_env.scenes.base import Scene


class TraceError(DipError, ValueError):
    """A trace cannot be read, or does not fit what it is compared with."""


class TornTraceWarning(UserWarning):
    """The last line of a trace file is incomplete, as after a crash; that line is lost."""


@dataclass(frozen=True)
class TraceTurn:
    """One action and what came back.

    Args:
        action: the policy's text.
        message: the text that came back, None when the episode ended.
        crops: files of the crops that came back, relative to the folder.
        regions: (R, 4) xyxy region of each crop, scene frame.
        reward: reward of this step.
        terminated: the episode ended by its own rules.
        truncated: the episode ran out of turns.
        info: the environment's info of the step, as JSON.
    """

    action: str
    message: str | None
    crops: tuple[str, ...]
    regions: tuple[tuple[float, ...], ...]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """One recorded episode.

    Args:
        folder: of its files.
        episode: name, unique in the folder.
        scene_id: name of the scene in its source.
        scene_index: index of the scene in its source, None when unknown.
        source: description of the source.
        config: the rules it was played under.
        seed: the seed of the episode, None when there was none.
        group: name shared by the rollouts of one group, None for a single episode.
        group_size: how many rollouts the group had.
        member: index in the group.
        siblings: members whose answers the look term was measured on, None for all others.
        control: name of the control it was played under, such as ``crops blanked``, None for none;
            images and regions are those that the policy was shown.
        prompt: text of the first message.
        overview: file of the overview, relative to the folder.
        turns: the actions in order.
        reward: total reward, None while unfinished.
        terms: unweighted reward terms by name, empty while unfinished.
        truth: size, boxes, visible_boxes, visible_share, ignore and labels of the scene (scene
            frame), None while unfinished.
    """

    folder: Path
    episode: str
    scene_id: str
    scene_index: int | None
    source: str
    config: EpisodeConfig
    seed: int | None
    group: str | None
    group_size: int
    member: int
    prompt: str
    overview: str
    turns: tuple[TraceTurn, ...] = ()
    reward: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    truth: dict[str, Any] | None = None
    siblings: tuple[int, ...] | None = None
    control: str | None = None

    @property
    def ended(self) -> bool:
        """True when the episode was recorded to its end."""
        return self.truth is not None

    def image(self, name: str) -> NDArray[np.uint8]:
        """Read one of the episode's images.

        Args:
            name: ``overview`` or an entry of a turn's ``crops``.

        Returns:
            RGB, uint8 (h, w, 3).

        Raises:
            TraceError: when the file is missing, damaged or not among those of the trace.
        """
        path = self.folder / name
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not path.is_file():
            raise TraceError(f"{path}: expected an image of episode {self.episode}, found no file")
        try:
            with Image.open(path, formats=("PNG",)) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # for broken files Pillow raises anything
            raise TraceError(f"{path}: expected a PNG image, got: {error}") from error

    def stored_scene(self) -> Scene:
        """Rebuild the annotated scene from the trace, with a black image instead of the photo.

        Returns:
            A scene that is good enough for scoring.

        Raises:
            TraceError: when the episode was not recorded to its end.
        """
        if self.truth is None:
            raise TraceError(f"episode {self.episode}: expected a finished one, it never ended")
        size = (int(self.truth["size"][0]), int(self.truth["size"][1]))
        return Scene(
            scene_id=self.scene_id,
            size=size,
            boxes=np.array(self.truth["boxes"], dtype=np.float32).reshape(-1, 4),
            visible_boxes=np.array(self.truth["visible_boxes"], dtype=np.float32).reshape(-1, 4),
            visible_share=np.array(self.truth["visible_share"], dtype=np.float32),
            ignore=np.array(self.truth["ignore"], dtype=np.bool_),
            labels=tuple(self.truth["labels"]),
            load_image=lambda: Image.new("RGB", size),
        )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}:{number}: expected one JSON object, got {error}") from error
    if torn:
        warnings.warn(
            f"{path}:{len(lines) + 1}: the last line was cut after {len(torn)} bytes and is lost",
            TornTraceWarning,
            stacklevel=3,
        )


def load_traces(folder: str | Path) -> list[Trace]:
    """Read every episode of a folder, unfinished ones included (``trace.ended`` tells).

    Args:
        folder: what a ``TraceWriter`` or ``EpisodeTrace`` wrote.

    Returns:
        The episodes in the order they began, writer by writer. A last line that was cut off is
        reported by a ``TornTraceWarning``.

    Raises:
        TraceError: when there are no trace files, or a line other than the last is broken.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("turns-*.jsonl"))
    if not paths:
        raise TraceError(f"{folder}: expected files turns-*.jsonl, found none")
    episodes: dict[str, dict[str, Any]] = {}
    for path in paths:
        for record in _records(path):
            try:
                _add(episodes, record, folder)
            except (KeyError, TypeError) as error:
                raise TraceError(f"{path}: record misses or mistypes a field: {error}") from error
    return [Trace(**{**e, "turns": tuple(e["turns"])}) for e in episodes.values()]


def _add(episodes: dict[str, dict[str, Any]], record: dict[str, Any], folder: Path) -> None:
    kind, name = record.pop("kind"), record["episode"]
    if kind == "start":
        config = record.pop("config")
        config = EpisodeConfig(**{**config, "reward": RewardConfig(**config["reward"])})
        if record.get("siblings") is not None:
            record["siblings"] = tuple(record["siblings"])
        episodes[name] = {**record, "folder": folder, "config": config, "turns": []}
    elif kind == "turn":
        del record["episode"], record["turn"]
        record["crops"] = tuple(record["crops"])
        record["regions"] = tuple(tuple(region) for region in record["regions"])
        episodes[name]["turns"].append(TraceTurn(**record))
    else:
        episodes[name].update({key: record[key] for key in ("reward", "terms", "truth")})
