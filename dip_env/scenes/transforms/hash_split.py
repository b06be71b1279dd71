"""Split a source by hashes of scene names, so that parts are stable when the data change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from operator import index as as_index
from types import MappingProxyType

import numpy as np

from dip_env.checks import check_integer
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.transforms.checks import scan_length

SHARES: Mapping[str, float] = MappingProxyType({"train": 0.9, "val": 0.1})
"""Parts and their shares where none are given."""
TOLERANCE = 1e-9
"""How far the sum of shares may be from 1."""


class HashSplit:
    """One part of a source; the name of a scene alone decides which part it belongs to.

    Adding, removing or reordering scenes never moves another scene to another part. Scenes of one
    sequence share ``notes["group"]`` and stay together; a scene without a group is split by its
    ``scene_id``. Shares hold on average over groups: parts of a small source can be empty. The
    order in which the shares are written does not matter.

    Args:
        source: the scenes; all are read once, without their images.
        part: which part to keep.
        shares: share of every part, all above 0, together 1.
        salt: prefix of the hashed names; another salt gives another split.
        among: number of scenes to use, from the first on; None for all. An endless source needs it.

    Raises:
        ConfigError: for an unknown part, shares that do not sum to 1, or an endless source without
            ``among``.

    Source: ours.
    """

    def __init__(
        self,
        source: SceneSource,
        part: str,
        shares: Mapping[str, float] = SHARES,
        salt: str = "",
        *,
        among: int | None = None,
    ) -> None:
        """Check the shares and find the scenes of the part."""
        self.shares = _checked(shares)
        if part not in self.shares:
            raise ConfigError(f"part: expected one of {list(self.shares)}, got {part!r}")
        self.source, self.part, self.salt = source, part, salt
        self.among = None if among is None else check_integer("among", among, least=1)
        looked_at = scan_length(source, self.among)
        mine, groups = [], set()
        for index in range(looked_at):
            group = group_name(source[index])
            if part_of(group, self.shares, salt) == part:
                mine.append(index)
                groups.add(group)
        self._indices = np.array(mine, dtype=np.int64)
        self.counts: Mapping[str, int] = {
            "kept": len(mine),
            "groups": len(groups),
            "other_parts": looked_at - len(mine),
            "beyond_among": len(source) - looked_at,
        }
        """Scenes and groups of this part, scenes of other parts, and scenes beyond ``among``."""

    def __repr__(self) -> str:
        """Return the wrapped source and everything the split depends on."""
        choices = f"{self.part!r}, {self.shares!r}, salt={self.salt!r}, among={self.among!r}"
        return f"HashSplit({self.source!r}, {choices})"

    def __len__(self) -> int:
        """Return the number of scenes in the part."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index`` of the part, in the order of the source."""
        number = as_index(index)
        if not 0 <= number < len(self):
            raise IndexError(f"{self.part} scene: expected 0..{len(self) - 1}, got {number}")
        return self.source[int(self._indices[number])]


def group_name(scene: Scene) -> str:
    """Return the name of the unit that stays together: the scene's group, or the scene itself."""
    return str(scene.notes.get("group", scene.scene_id))


def part_of(name: str, shares: Mapping[str, float], salt: str = "") -> str:
    """Return the part a name belongs to.

    Args:
        name: of a group.
        shares: share of every part, together 1; parts are laid out in the order of their names.
        salt: prefix of the hashed name.

    Returns:
        A key of ``shares``.
    """
    point, edge = unit_hash(salt + name), 0.0
    *others, last = sorted(shares)
    for part in others:
        edge += shares[part]
        if point < edge:
            return part
    return last


def unit_hash(text: str) -> float:
    """Return a number in [0, 1) that depends on the text only, the same on every machine."""
    # File names may hold bytes that are not text, which Python keeps as lone surrogates.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # A float holds 53 bits: all 64 could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _checked(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares in the order of their names."""
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise ConfigError(f"shares[{name!r}]: expected a number in (0, 1], got {share!r}")
    total = math.fsum(shares.values())
    if abs(total - 1) > TOLERANCE:
        raise ConfigError(f"shares: expected a sum of 1, got {total:g} from {dict(shares)}")
    return {name: float(shares[name]) for name in sorted(shares)}
