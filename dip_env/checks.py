"""Checks of settings: what a value must be, said in one line; numpy's numbers count as Python's."""

from __future__ import annotations

import math
import numbers
import re
from operator import index as as_index
from typing import Any

import numpy as np

from dip_env.errors import ConfigError


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a setting that must be an integer.

    Args:
        name: of the setting, for the message.
        value: the given value.
        least: smallest valid value.
        most: largest valid value, None for any.

    Returns:
        The value as a plain int.

    Raises:
        ConfigError: for anything else, True and False included.
    """
    wanted = f"an integer >= {least}"
    try:
        if isinstance(value, bool | np.bool_ | np.ndarray):
            raise TypeError
        number = as_index(value)
    except TypeError:
        raise ConfigError(f"{name}: expected {wanted}, got {short(value)}") from None
    if number < least:
        raise ConfigError(f"{name}: expected {wanted}, got {short(number)}")
    if most is not None and number > most:
        raise ConfigError(f"{name}: expected an integer <= {most}, got {short(number)}")
    return number


def check_number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """Return a setting that must be a finite number.

    Args:
        name: of the setting, for the message.
        value: the given value.
        least: smallest valid value.
        most: largest valid value.

    Returns:
        The value as a plain int or float.

    Raises:
        ConfigError: for anything else; text, True and False are no numbers.
    """
    wanted = f"a finite number >= {least:g}"
    if most < math.inf:
        wanted = f"a number from {least:g} to {most:g}"
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        number: Any = value.item() if isinstance(value, np.generic) else value
        # Written so that NaN is refused; integers of any length compare.
        if least <= number <= most and number != math.inf:
            return number if isinstance(number, int) else float(number)
    raise ConfigError(f"{name}: expected {wanted}, got {short(value)}")


def check_flag(name: str, value: Any) -> bool:
    """Return a setting that must be True or False.

    Args:
        name: of the setting, for the message.
        value: the given value.

    Returns:
        The value as a plain bool.

    Raises:
        ConfigError: for anything else: the text "false" would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name}: expected True or False, got {short(value)}")
    return bool(value)


def check_bytes(name: str, wanted: int, limit: int, what: str) -> None:
    """Refuse what would not fit in memory before it is asked for.

    Args:
        name: of the settings that decide the size, for the message.
        wanted: bytes.
        limit: most bytes.
        what: takes so much.

    Raises:
        ConfigError: for more than the limit.
    """
    if wanted > limit:
        raise ConfigError(
            f"{name}: expected {what} of at most {limit / 2**30:g} GiB, got {wanted / 2**30:.3g}"
        )


def short(value: Any) -> str:
    """Return the repr of a value in one line, cut to a readable length."""
    if isinstance(value, int) and value.bit_length() > 2000:
        # Python refuses to print huge ones, and may be set to refuse those of 640 digits.
        return f"an integer of {value.bit_length()} bits"
    text = re.sub(r"\s*\n\s*", " ", repr(value))  # arrays print a line per row
    return text if len(text) <= 60 else text[:57] + "..."
