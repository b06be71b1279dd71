"""Episodes on disk: one JSON line per turn, images as PNG beside it; plays nothing.

A folder holds ``turns-0000.jsonl``, ``turns-0001.jsonl``, ... (one file for each writer, so that
runs and workers never write into each other's) and ``images/``. Every line is one JSON object with
``kind`` and ``episode``:

- ``start``: scene, config, seed, source, group, the first message, the overview;
- ``turn``: the action, the message and crops that came back, reward, info;
- ``end``: total reward, reward terms, and the truth the episode was scored with.

Images are written before the line that names them and every line reaches the file in one write, so
a crash costs at most the line being written.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.episode import Episode, Turn
from dip_env.errors import DipError
from dip_env.scenes.base import Scene


class TraceError(DipError, ValueError):
    """A trace cannot be read, or does not fit what it is compared with."""


class TornTraceWarning(UserWarning):
    """The last line of a trace file was cut, as after a crash; that line is lost."""


def to_json(value: Any) -> Any:
    """Turn arrays, dataclasses and numbers into plain JSON values.

    Args:
        value: anything made of dicts, sequences, dataclasses, numpy and plain values.

    Returns:
        The same made of dict, list, str, int, float, bool and None; a number that is not finite
        becomes None, since JSON has no word for it.
    """
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **shown}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@dataclass(frozen=True)
class TraceTurn:
    """One action and what came back.

    Args:
        action: the text the policy sent.
        message: the text that came back, None when the episode ended.
        crops: files of the crops that came back, relative to the folder.
        regions: (R, 4) scene frame, where each crop lies.
        reward: reward of this step.
        terminated: the episode ended by its own rules.
        truncated: the episode ran out of turns.
        info: what the environment said about the step, as JSON.
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
        folder: where its files lie.
        episode: name, unique in the folder.
        scene_id: name of the scene in its source.
        scene_index: index of the scene in its source, None when unknown.
        source: description of the source.
        config: the rules it was played under.
        seed: the seed of the episode, None when there was none.
        group: name shared by the rollouts of one group, None for a single episode.
        group_size: how many rollouts the group had.
        member: place in the group.
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
            TraceError: when the file is missing.
        """
        path = self.folder / name
        if not path.is_file():
            raise TraceError(f"{path}: expected an image of episode {self.episode}, found no file")
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def stored_scene(self) -> Scene:
        """Rebuild the scene's truth from the trace, with a black image in place of the photo.

        Returns:
            A scene good enough to score with, not to look at.

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


def _truth(scene: Scene) -> dict[str, Any]:
    names = ("size", "boxes", "visible_boxes", "visible_share", "ignore", "labels")
    return {name: to_json(getattr(scene, name)) for name in names}


class TraceWriter:
    """Append episodes to a folder, any number of them at once.

    Args:
        folder: made if missing; may already hold the files of other writers.
        source: description of the scene source, kept with every episode.
    """

    def __init__(self, folder: str | Path, source: str = "") -> None:
        """Claim a file name no other writer has."""
        self.folder = Path(folder)
        self.source = source
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        self._number, self._file = self._claim()
        self._count = 0
        self._groups = 0
        self._steps: dict[str, int] = {}

    def _claim(self) -> tuple[int, Any]:
        number = len(list(self.folder.glob("turns-*.jsonl")))
        while True:
            try:
                return number, (self.folder / f"turns-{number:04d}.jsonl").open("xb")
            except FileExistsError:
                number += 1

    def _write(self, record: dict[str, Any]) -> None:
        # ASCII escapes: a policy may emit any str, and lone surrogates have no UTF-8.
        line = json.dumps(to_json(record), ensure_ascii=True, allow_nan=False)
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()

    def _save(self, image: NDArray[np.uint8], name: str) -> str:
        relative = f"images/{name}.png"
        # Level 1: four times faster than the default for a tenth more bytes.
        Image.fromarray(image).save(self.folder / relative, compress_level=1)
        return relative

    def new_group(self) -> str:
        """Return a name for a group that no other group of the folder has."""
        self._groups += 1
        return f"{self._number:04d}-group{self._groups - 1:06d}"

    def start(
        self,
        episode: Episode,
        *,
        seed: int | None = None,
        group: str | None = None,
        group_size: int = 1,
        member: int = 0,
    ) -> str:
        """Record the beginning of an episode.

        Args:
            episode: before its first step.
            seed: the seed it was reset with, if any.
            group: name shared by the rollouts of its group, from ``new_group``.
            group_size: how many rollouts the group has.
            member: its place in the group.

        Returns:
            The episode's name in this folder, for ``turn`` and ``end``.
        """
        name = f"{self._number:04d}-{self._count:06d}"
        self._count += 1
        self._steps[name] = 0
        first = episode.transcript[0]
        self._write(
            {
                "kind": "start",
                "episode": name,
                "scene_id": episode.scene.scene_id,
                "scene_index": episode.scene_index,
                "source": self.source,
                "config": asdict(episode.config),
                "seed": seed,
                "group": group,
                "group_size": group_size,
                "member": member,
                "prompt": first.text,
                "overview": self._save(first.images[0], f"{name}-overview"),
            }
        )
        return name

    def turn(self, name: str, action: str, turn: Turn) -> None:
        """Record one action and what came back.

        Args:
            name: what ``start`` returned.
            action: the text the policy sent.
            turn: what the episode returned.
        """
        step = self._steps[name]
        self._steps[name] += 1
        self._write(
            {
                "kind": "turn",
                "episode": name,
                "turn": step,
                "action": action,
                "message": None if turn.message is None else turn.message.text,
                "crops": [
                    self._save(crop.image, f"{name}-turn{step}-crop{k}")
                    for k, crop in enumerate(turn.crops)
                ],
                "regions": [crop.region for crop in turn.crops],
                "reward": turn.reward,
                "terminated": turn.terminated,
                "truncated": turn.truncated,
                "info": turn.info,
            }
        )

    def end(self, name: str, episode: Episode, reward: float, terms: Mapping[str, float]) -> None:
        """Record how an episode was paid; a group's members end together.

        Args:
            name: what ``start`` returned.
            episode: the finished episode.
            reward: its total reward.
            terms: its unweighted reward terms by name.
        """
        del self._steps[name]
        truth = _truth(episode.scene)
        record = {"kind": "end", "episode": name, "reward": reward, "terms": terms, "truth": truth}
        self._write(record)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
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
        episodes[name] = {**record, "folder": folder, "config": config, "turns": []}
    elif kind == "turn":
        del record["episode"], record["turn"]
        record["crops"] = tuple(record["crops"])
        record["regions"] = tuple(tuple(region) for region in record["regions"])
        episodes[name]["turns"].append(TraceTurn(**record))
    else:
        episodes[name].update({key: record[key] for key in ("reward", "terms", "truth")})
