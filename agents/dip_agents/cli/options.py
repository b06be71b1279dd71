"""The options of a command, read from the dataclass of its settings; loads no torch.

A command's settings are a dataclass. Its fields are options; a field that is itself a dataclass
adds the fields of that one, under a heading of their own. The sentence below a field is its help.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from dip_env.errors import ConfigError

NONE = "none"
"""How an option that may be absent is switched off."""


class UsageError(ConfigError):
    """What was typed does not name an option or a value; the message names the option."""


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Args:
        name: for help, such as ``INT``; empty for switches.
        read: from one word to a value; raises ``ValueError`` with what was expected and what came.
        many: takes one or more words and holds a tuple.
        switch: takes no word: ``--name`` and ``--no-name``.
        choices: the words it takes, where these are few.
    """

    name: str
    read: Callable[[str], Any]
    many: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        name: as in configuration files, ``group_size``.
        path: where its value lies in the settings, such as ``("grpo", "group_size")``.
        kind: what values it takes.
        help: one or a few sentences.
        heading: of the group it is listed under.
        default: of the class of settings.
        positional: is told by its place, not by a flag.
    """

    name: str
    path: tuple[str, ...]
    kind: Kind
    help: str
    heading: str
    default: Any = field(compare=False)
    positional: bool = False

    @property
    def flag(self) -> str:
        """As typed, ``--group-size``; the bare name of one that is told by its place."""
        dashed = self.name.replace("_", "-")
        return dashed.upper() if self.positional else f"--{dashed}"


def options_of(settings: type) -> tuple[Option, ...]:
    """Return the options of a command in the order of its fields.

    Args:
        settings: a dataclass. Its attribute ``HEADINGS`` (class -> heading) names groups, and
            ``POSITIONAL`` (field names) what is told by its place.

    Returns:
        All leaves of the dataclass.

    Raises:
        TypeError: for a field type that no option can have, or a name used twice.
    """
    found = tuple(_leaves(settings, (), getattr(settings, "HEADINGS", {}), settings))
    names = [option.name for option in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(
            f"{settings.__name__}: expected each option once, got {sorted(twice)} twice"
        )
    return found


def _leaves(
    owner: type, path: tuple[str, ...], headings: Mapping[type, str], root: type
) -> Iterator[Option]:
    hints = get_type_hints(owner)
    words = _field_help(owner)
    renamed: Mapping[tuple[str, ...], str] = getattr(root, "RENAMED", {})
    for one in fields(owner):
        here, hint = (*path, one.name), hints[one.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _leaves(hint, here, headings, root)
            continue
        yield Option(
            name=renamed.get(here, one.name),
            path=here,
            kind=kind_of(hint),
            help=words.get(one.name, ""),
            heading=headings.get(owner, "Run"),
            default=_default(one),
            positional=one.name in getattr(root, "POSITIONAL", ()) and not path,
        )


def _default(one: Field[Any]) -> Any:
    if one.default is not MISSING:
        return one.default
    return None if one.default_factory is MISSING else one.default_factory()


@cache
def _field_help(owner: type) -> dict[str, str]:
    """Return the sentences below the fields of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if is_dataclass(base):
            for entry in parse_from_object(base).params:
                if entry.args[0] == "attribute" and entry.description:
                    found[entry.arg_name] = inspect.cleandoc(entry.description).replace("``", "")
    return found


def kind_of(hint: Any) -> Kind:
    """Return what values a field of a type takes.

    Args:
        hint: ``bool``, ``int``, ``float``, ``str``, ``Path``, a ``Literal``, one of these or None,
            or a tuple of any length of these.

    Returns:
        The kind.

    Raises:
        TypeError: for any other type.
    """
    if hint is bool:
        return Kind("", _bool, switch=True)
    if get_origin(hint) is Literal:
        texts = tuple(str(value) for value in get_args(hint))
        return Kind(f"{{{','.join(texts)}}}", _one_of(get_args(hint)), choices=texts)
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        kind = kind_of(inner)
        return Kind(kind.name, _or_none(kind.read), kind.many, kind.switch, kind.choices)
    if get_origin(hint) is tuple:
        inner, dots = get_args(hint)
        if dots is Ellipsis:
            kind = kind_of(inner)
            return Kind(kind.name, kind.read, many=True, choices=kind.choices)
    simple: dict[Any, Kind] = {
        int: Kind("INT", _int),
        float: Kind("NUMBER", _float),
        str: Kind("TEXT", str),
        Path: Kind("PATH", _path),
    }
    if hint not in simple:
        raise TypeError(f"expected a type that an option can have, got {hint}")
    return simple[hint]


def _bool(word: str) -> bool:
    if word not in ("true", "false"):
        raise ValueError(f"expected true or false, got {word!r}")
    return word == "true"


def _int(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"expected an integer, got {word!r}") from None


def _float(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise ValueError(f"expected a number, got {word!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {word!r}")
    return number


def _path(word: str) -> Path:
    if not word:  # would be the current folder
        raise ValueError("expected a path, got ''")
    return Path(word)


def _one_of(values: tuple[Any, ...]) -> Callable[[str], Any]:
    known = {str(value): value for value in values}

    def read(word: str) -> Any:
        if word not in known:
            raise ValueError(
                f"expected one of {', '.join(known)}, got {word!r}{did_you_mean(word, known)}"
            )
        return known[word]

    return read


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda word: None if word == NONE else read(word)


def did_you_mean(word: str, known: Any) -> str:
    """Return ``; did you mean 'x'?`` for the closest known word, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
