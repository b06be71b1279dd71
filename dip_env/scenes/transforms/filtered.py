"""Filter scenes by their number of people, and people by height and visibility."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from operator import index as as_index

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import check_integer
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.transforms.checks import scan_length

HEIGHT_SLACK = 1e-3
"""Tolerance in pixels: float32 corners are no more exact than this, and limits are inclusive."""


class FilteredScenes:
    """A source with limits on its people, which decide who is ignored and which scenes are kept.

    People shorter or less visible than the limits are not removed: they become ignored, so that
    finding them is neither right nor wrong, as in the setups of CityPersons ("reasonable" is
    ``min_height=50, min_visible=0.65``). Their number is added to a scene's notes as
    ``turned_ignored``. Scenes are then kept or left out by their number of non-ignored people;
    this is found once, by reading every scene when the source is opened.

    Args:
        source: the scenes.
        min_people: scenes with fewer non-ignored people are left out.
        max_people: scenes with more non-ignored people are left out; None for no limit.
        min_height: of the full box in pixels of the scene frame, the limit itself included.
        min_visible: visible share in [0, 1], the limit itself included.
        among: number of scenes to read, from the first on; None for all. An endless source needs
            it where the number of people is limited.

    Raises:
        ConfigError: for a limit that cannot work, or an endless source without ``among``.
        SceneError: when no scene is left.

    Source: ignoring rather than removing is that of CityPersons (arXiv 1702.05693).
    """

    def __init__(
        self,
        source: SceneSource,
        *,
        min_people: int = 0,
        max_people: int | None = None,
        min_height: float = 0.0,
        min_visible: float = 0.0,
        among: int | None = None,
    ) -> None:
        """Check the limits; read every scene where the number of people is limited."""
        if not (math.isfinite(min_height) and min_height >= 0):
            raise ConfigError(f"min_height: expected a number of pixels >= 0, got {min_height!r}")
        if not 0 <= min_visible <= 1:
            raise ConfigError(f"min_visible: expected a share in [0, 1], got {min_visible!r}")
        self.source = source
        self.min_people = check_integer("min_people", min_people, least=0)
        self.max_people = (
            None if max_people is None else check_integer("max_people", max_people, least=0)
        )
        if self.max_people is not None and self.max_people < self.min_people:
            raise ConfigError(
                f"max_people: expected at least min_people = {min_people}, got {max_people}"
            )
        self.min_height, self.min_visible = float(min_height), float(min_visible)
        self.among = None if among is None else check_integer("among", among, least=1)
        self._kept: NDArray[np.int64] | None = None
        counts: dict[str, int] = {}
        if self.min_people or self.max_people is not None:
            looked_at = scan_length(source, self.among)
            self._kept, counts["turned_ignored"] = self._find(range(looked_at))
            self._length = len(self._kept)
        else:
            looked_at = len(source) if self.among is None else min(self.among, len(source))
            self._length = looked_at
        counts.update(
            kept=self._length,
            left_out=looked_at - self._length,
            beyond_among=len(source) - looked_at,
        )
        self.counts: Mapping[str, int] = counts
        """Scenes kept, left out and beyond ``among``; with limits on the number of people also
        the instances that became ignored in kept scenes (else no scene was read)."""

    def __repr__(self) -> str:
        """Return the wrapped source and every limit."""
        names = ("min_people", "max_people", "min_height", "min_visible", "among")
        limits = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"FilteredScenes({self.source!r}, {limits})"

    def __len__(self) -> int:
        """Return the number of kept scenes."""
        return self._length

    def __getitem__(self, index: int) -> Scene:
        """Return kept scene ``index``, in the order of the source; IndexError outside the range."""
        number = as_index(index)
        if not 0 <= number < len(self):
            raise IndexError(f"filtered scene: expected 0..{len(self) - 1}, got {number}")
        chosen = number if self._kept is None else int(self._kept[number])
        return ignore_hard_people(self.source[chosen], self.min_height, self.min_visible)

    def _find(self, indices: range) -> tuple[NDArray[np.int64], int]:
        """Return the kept scenes and how many instances became ignored in them."""
        kept: list[int] = []
        turned = 0
        for index in indices:
            scene = self.source[index]
            hard = hard_people(scene, self.min_height, self.min_visible)
            people = int((~(scene.ignore | hard)).sum())
            if people >= self.min_people and (self.max_people is None or people <= self.max_people):
                kept.append(index)
                turned += int(hard.sum())
        if not kept:
            most = "or more" if self.max_people is None else f"to {self.max_people}"
            raise SceneError(
                f"{self.source!r}: expected a scene with {self.min_people} {most} non-ignored "
                f"people, found none among {len(indices)}"
            )
        return np.array(kept, dtype=np.int64), turned


def hard_people(scene: Scene, min_height: float, min_visible: float) -> NDArray[np.bool_]:
    """Return which non-ignored instances are too short or too hidden.

    Args:
        scene: the scene.
        min_height: of the full box in pixels of the scene frame.
        min_visible: visible share in [0, 1].

    Returns:
        Bool (N,), False for instances that are already ignored.
    """
    height = scene.boxes[:, 3] - scene.boxes[:, 1]
    # The share is compared as float32, which it is stored as: 0.65 itself is not below 0.65.
    hidden = scene.visible_share < np.float32(min_visible)
    return ~scene.ignore & ((height < min_height - HEIGHT_SLACK) | hidden)


def ignore_hard_people(scene: Scene, min_height: float, min_visible: float) -> Scene:
    """Return the scene with too short or too hidden people ignored.

    Args:
        scene: the scene.
        min_height: of the full box in pixels of the scene frame.
        min_visible: visible share in [0, 1].

    Returns:
        The same instances; ``notes["turned_ignored"]`` is the number that changed, added to that
        of earlier filters.
    """
    hard = hard_people(scene, min_height, min_visible)
    turned = int(hard.sum()) + int(scene.notes.get("turned_ignored", 0))
    return replace(
        scene, ignore=scene.ignore | hard, notes={**scene.notes, "turned_ignored": turned}
    )
