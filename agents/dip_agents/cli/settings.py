"""From the options that were given to the settings of a command.

Later ones win: the defaults of the command, those that fit the model (its episode rules), the file
that ``--config`` names or the run that ``--resume`` goes on with, and what was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from dip_agents.cli.config_files import read_config
from dip_agents.cli.options import Option, options_of
from dip_agents.cli.parser import CONFIG, parse
from dip_env.errors import ConfigError

Settings = TypeVar("Settings")
_NAMES = re.compile(r"[a-z0-9_]+(?:, [a-z0-9_]+)*(?=: )")


@dataclass(frozen=True)
class Resolved(Generic[Settings]):
    """The settings of a command, and where they come from.

    Args:
        settings: the dataclass of the command.
        options: of the command.
        typed: what the command line gave, by the option's name.
        file: what the configuration file gave.
        words: the command line behind the command's name.
    """

    settings: Settings
    options: tuple[Option, ...]
    typed: Mapping[str, Any]
    file: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Every setting by the option's name."""
        return {option.name: value_at(self.settings, option.path) for option in self.options}


def resolve(kind: type[Settings], command: str, words: Sequence[str]) -> Resolved[Settings]:
    """Read a command line.

    Args:
        kind: the dataclass of the command's settings. Where it has a class method ``defaults``,
            that makes the instance to start from out of the values that were given; where it has a
            class method ``earlier``, that returns values which stand before those of a file.
        command: its name.
        words: behind that name.

    Returns:
        The settings.

    Raises:
        ConfigError: for what cannot be read or cannot be.
    """
    options = options_of(kind)
    typed = parse(options, words)
    name = typed.pop(CONFIG, None)
    file = {} if name is None else read_config(name, command, options)
    earlier = getattr(kind, "earlier", None)
    if earlier is not None:
        file = earlier(options, typed, file)
    given = {**file, **typed}
    defaults = getattr(kind, "defaults", None)
    start = kind(**_positional(options, given)) if defaults is None else defaults(given)
    found = Resolved(assemble(start, options, given), options, typed, file, tuple(words))
    _check_seeds(found.values)
    return found


def _check_seeds(values: Mapping[str, Any]) -> None:
    """Refuse seeds below 0, which no generator takes, before anything is measured."""
    for name in ("seed", "scene_seed", "seeds"):
        seeds = values.get(name, ())
        for seed in seeds if isinstance(seeds, tuple) else (seeds,):
            if seed < 0:
                raise ConfigError(f"{name}: expected at least 0, got {seed}")


def _positional(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataclass without defaults for its positional options is made of."""
    return {o.name: given[o.name] for o in options if o.positional and o.name in given}


def assemble(start: Settings, options: Iterable[Option], given: Mapping[str, Any]) -> Settings:
    """Replace the given values in settings; every nested dataclass is made, and checked, once.

    Args:
        start: the settings to start from.
        options: say where each value lies.
        given: by the option's name.

    Returns:
        The new settings.
    """
    paths = {option.path: given[option.name] for option in options if option.name in given}
    return _assemble(start, paths)


def _assemble(start: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    changes: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in values):
        below = {path[1:]: value for path, value in values.items() if path[0] == name}
        changes[name] = below[()] if () in below else _assemble(getattr(start, name), below)
    return replace(start, **changes)


def value_at(settings: Any, path: Sequence[str]) -> Any:
    """Return the value that lies at a path of settings."""
    for name in path:
        settings = getattr(settings, name)
    return settings


def as_typed(message: str, options: Iterable[Option]) -> str:
    """Name options as they are typed where a message of the library begins with their fields.

    Args:
        message: such as ``group_size: expected at least 2, got 1``.
        options: of the command.

    Returns:
        Such as ``--group-size: expected at least 2, got 1``.
    """
    flags = {option.path[-1]: option.flag for option in options}
    found = _NAMES.match(message)
    names = found[0].split(", ") if found else []
    if not names or any(name not in flags for name in names):
        return message
    return ", ".join(flags[name] for name in names) + message[len(found[0]) :]  # type: ignore[index]


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], may_differ: Iterable[str]
) -> list[str]:
    """Name what was given in another way than it was saved.

    Args:
        saved: settings of a run.
        given: what was typed now.
        may_differ: names that a resumed run may set anew.

    Returns:
        Such as ``--scenes: 'night' there, 'easy' here``.
    """
    return [
        f"--{name.replace('_', '-')}: {_plain(saved[name])} there, {_plain(value)} here"
        for name, value in given.items()
        if name in saved and name not in set(may_differ) and saved[name] != value
    ]


def _plain(value: Any) -> str:
    return repr(str(value) if isinstance(value, Path) else value)
