"""Checks that transforms of sources share."""

from __future__ import annotations

import numpy as np

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


def check_integer(name: str, value: object, least: int) -> int:
    """Return a setting that must be an integer.

    Args:
        name: of the setting, for the message.
        value: the given value.
        least: smallest valid value.

    Returns:
        The value as a plain int.

    Raises:
        ConfigError: for anything else, True and False included.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}: expected an integer >= {least}, got {value!r}")
    return int(value)
