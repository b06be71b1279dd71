"""Checks that transforms of sources share."""

from __future__ import annotations

from dip_env.errors import ConfigError
from dip_env.scenes.base import SceneSource, is_endless


def scan_length(source: SceneSource, among: int | None) -> int:
    """Return how many scenes, from the first on, are to be read.

    Args:
        source: the scenes.
        among: upper limit; None for all.

    Returns:
        A number of scenes, at most ``len(source)``.

    Raises:
        ConfigError: when ``among`` is missing and the source is endless.
    """
    if among is not None:
        return min(among, len(source))
    if is_endless(source):
        raise ConfigError(
            f"among: expected a number of scenes to read, got None; {source!r} is endless and "
            "cannot be read as a whole"
        )
    return len(source)
