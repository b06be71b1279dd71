"""Settings in a file: TOML is written; TOML, YAML and JSON are read. Keys are names of options."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dip_agents.cli.options import NONE, Option, UsageError, did_you_mean
from dip_env.formats.files import unique_keys

COMMAND = "command"
"""The key that says which command a file is for; may be left out."""
_YAML_TEXT = "tag:yaml.org,2002:str"


def read_config(path: Path | str, command: str, options: Iterable[Option]) -> dict[str, Any]:
    """Read settings from a file.

    Args:
        path: ends in .toml, .yaml, .yml or .json.
        command: the one that reads it.
        options: of that command.

    Returns:
        Values by the option's name.

    Raises:
        UsageError: for a file that cannot be read, one of another command, an unknown key or a
            value of the wrong type; names file, line and key.
    """
    path = Path(path)
    text, values = _load(path)
    by_name = {option.name: option for option in options}
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        where = f"{path}, line {line_of(text, str(key))}: {key}"
        if name == COMMAND:
            if value != command:
                raise UsageError(f"{where}: expected {command!r}, got {value!r}")
        elif name not in by_name:
            hint = did_you_mean(name, by_name)
            if isinstance(value, dict):
                hint = "; all options stand at the top of the file, in no table"
            raise UsageError(f"{where}: expected the name of an option of dip {command}{hint}")
        elif name in found:
            raise UsageError(f"{where}: expected {name} once, got it in two spellings")
        else:
            found[name] = _value(by_name[name], value, where)
    return found


def _load(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--config: {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        if path.suffix == ".toml":
            values = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            values = _parse_yaml(text)
        elif path.suffix == ".json":
            values = json.loads(text, object_pairs_hook=unique_keys)
        else:
            raise UsageError(
                f"--config: expected a .toml, .yaml, .yml or .json file, got {str(path)!r}"
            )
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected keys with values, got {type(values).__name__}")
    return text, values


def _parse_yaml(text: str) -> Any:
    """Parse YAML; PyYAML alone silently keeps the last of equal keys."""
    import yaml

    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(tree, yaml.MappingNode):
            unique_keys([(key.value, None) for key, _ in tree.value if key.tag == _YAML_TEXT])
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def line_of(text: str, key: str) -> int:
    """Return the line, from 1, on which a key of a settings file stands."""
    match = re.search(rf"^\s*[{{,]?\s*[\"']?{re.escape(key)}[\"']?\s*[=:]", text, re.MULTILINE)
    found = match or re.search(rf"\"{re.escape(key)}\"\s*:", text)
    return text.count("\n", 0, found.end()) + 1 if found else 1


def _value(option: Option, value: Any, where: str) -> Any:
    """Return a value of a file as the command line would have read it."""
    kind = option.kind
    if kind.many:
        if not isinstance(value, list):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        return tuple(_one(option, item, where) for item in value)
    return _one(option, value, where)


def _one(option: Option, value: Any, where: str) -> Any:
    if value is None:
        value = NONE
    if isinstance(value, bool):
        word = "true" if value else "false"
    elif isinstance(value, int | float | str):
        word = str(value)
    else:
        raise UsageError(f"{where}: expected one value, got {value!r}")
    if option.kind.switch and not isinstance(value, bool):
        raise UsageError(f"{where}: expected true or false, got {value!r}")
    if option.kind.name == "TEXT" and not isinstance(value, str):
        raise UsageError(f"{where}: expected text in quotes, got {value!r}")
    try:
        return option.kind.read(word)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def config_toml(
    command: str, options: Sequence[Option], values: Mapping[str, Any], *, notes: bool = False
) -> str:
    """Return settings as TOML that ``read_config`` reads back to the same values.

    Args:
        command: whose settings they are.
        options: of that command; those without a value are left out.
        values: by the option's name.
        notes: write the help of each option above it.

    Returns:
        The text of the file.
    """
    lines = [f"{COMMAND} = {json.dumps(command)}"]
    heading = None
    for option in options:
        if option.name not in values:
            continue
        if option.heading != heading:
            heading = option.heading
            lines += ["", f"# {heading}"]
        if notes:
            lines += [f"# {line}" for line in textwrap.wrap(option.help, 90)]
        lines.append(f"{option.name} = {_toml(values[option.name])}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if value is None:
        return json.dumps(NONE)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON leaves DEL as it is, which TOML does not allow; its other escapes are TOML's.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
