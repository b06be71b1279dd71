"""Arguments that all readers take, checked before a file is opened."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dip_env.checks import short
from dip_env.errors import ConfigError


def check_arguments(split: Any, bad_boxes: Any, **paths: Any) -> None:
    """Require values of the right type.

    Args:
        split: name of a part of the data.
        bad_boxes: ``error`` or ``drop``.
        **paths: paths by the name of their argument; None where not given.

    Raises:
        ConfigError: for the first value that cannot work; names the argument.
    """
    if not isinstance(split, str) or not split:
        raise ConfigError(f"split: expected a name, got {split!r}")
    if bad_boxes not in ("error", "drop"):
        raise ConfigError(f"bad_boxes: expected error or drop, got {bad_boxes!r}")
    for name, value in paths.items():
        if not isinstance(value, str | Path | None) or value == "":
            raise ConfigError(f"{name}: expected a path, got {value!r}")


def check_names(option: str, value: Any) -> tuple[str, ...]:
    """Require a list of names.

    Args:
        option: name of the argument.
        value: its value; a string is no list.

    Returns:
        The names.

    Raises:
        ConfigError: for anything else.
    """
    listed = isinstance(value, Collection) and not isinstance(value, str | bytes)
    if not listed or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{option}: expected a list of names, got {short(value)}")
    return tuple(value)
