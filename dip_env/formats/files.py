"""Annotation files: found below a root, read as text and checked before parsing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError

_SPLIT_WORDS = ("train", "val", "test")
_LONGEST_NAME = 250
"""Bytes of one part of a path; file systems hold 255, an ending included."""
_LONGEST_PATH = 1000
"""Characters of a path below the image folder."""


def read_bytes(file: Path, limit: int | None = None) -> bytes:
    """Return the contents of an annotation file.

    Args:
        file: the file.
        limit: most bytes it may have; any number by default.

    Returns:
        Its bytes.

    Raises:
        SceneError: for a file that is missing, cannot be read or is too long.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(-1 if limit is None else limit + 1)
    except FileNotFoundError:
        raise SceneError(f"{file}: annotation file is missing") from None
    except OSError as err:
        raise SceneError(f"{file}: annotation file cannot be read: {err.strerror}") from err
    if limit is not None and len(data) > limit:
        raise SceneError(f"{file}: expected at most {limit} bytes, got more")
    return data


def read_text(file: Path) -> str:
    """Return the text of an annotation file.

    Args:
        file: the file, UTF-8 without a byte order mark.

    Returns:
        Its text, not empty; line ends unchanged.

    Raises:
        SceneError: for a file that is missing, empty, not UTF-8 or begins with a byte order mark.
    """
    data = read_bytes(file)
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise SceneError(f"{file}: expected UTF-8 without a byte order mark, got one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise SceneError(
            f"{file}: line {line}: expected UTF-8, got byte {data[err.start]:#04x}"
        ) from None
    if not text.strip():
        raise SceneError(f"{file}: expected annotations, got an empty file")
    return text


def read_lines(file: Path) -> list[str]:
    """Return the lines of an annotation file.

    Args:
        file: the file; its lines end with a single line feed.

    Returns:
        Its lines without line feeds.

    Raises:
        SceneError: as ``read_text``, and for carriage returns.
    """
    text = read_text(file)
    if "\r" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise SceneError(
            f"{file}: line {line}: expected lines that end with LF, got a carriage return (CRLF)"
        )
    return text.removesuffix("\n").split("\n")


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; errors name its location.

    Args:
        text: one JSON value.
        where: file, and line if any, for the message.

    Returns:
        The value.

    Raises:
        SceneError: for text that is not JSON or nested too deep, and for an object with a key that
            comes twice, of which JSON's readers silently keep the last.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as err:
        raise SceneError(f"{where}: expected JSON: {err.msg} at {_place(text, err.pos)}") from err
    except DuplicateKeyError as err:
        at = _place(text, _second_key(text))
        raise SceneError(f"{where}: expected each key once in an object: {err} at {at}") from None
    except (ValueError, RecursionError) as err:
        raise SceneError(f"{where}: expected JSON: {err}") from err


class DuplicateKeyError(ValueError):
    """An object of a JSON text has a key twice; the message names it."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON; for ``object_pairs_hook`` of ``json.loads``.

    Args:
        pairs: keys and values.

    Returns:
        The object.

    Raises:
        DuplicateKeyError: for a key that comes twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise DuplicateKeyError(f"got {short(twice)} twice")
    return made


_KEY_OR_BRACE = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")\s*(:)?|[{}]')


def _second_key(text: str) -> int:
    """Return where in a JSON text the first key stands that its object already has."""
    objects: list[set[str]] = []
    for found in _KEY_OR_BRACE.finditer(text):
        if found[0] == "{":
            objects.append(set())
        elif found[0] == "}":
            objects.pop()
        elif found[2]:
            key = json.loads(found[1])
            if key in objects[-1]:
                return found.start()
            objects[-1].add(key)
    return 0


def _place(text: str, at: int) -> str:
    """Return line and column of a position; the column alone in a text of one line."""
    column = f"column {at - text.rfind(chr(10), 0, at)}"
    return f"line {text.count(chr(10), 0, at) + 1} {column}" if "\n" in text else column


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern by name, without hidden ones.

    Args:
        folder: where to look; it may be missing.
        pattern: as for ``Path.glob``.

    Returns:
        The files found. Names that begin with a dot are left out: an archive unpacked on a Mac has
        ``._annotation_train.odgt`` beside the file.
    """
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))


def pick_split(files: Sequence[Path], split: str, folder: Path, expected: str) -> Path:
    """Choose the annotation file of one split.

    A file whose name holds the split is taken. A file that names no split serves any, if it is the
    only one; a file of another split never does.

    Args:
        files: candidates.
        split: the wanted split.
        folder: where they were searched, for the message.
        expected: names of such files, for the message.

    Returns:
        The file.

    Raises:
        SceneError: when none or several fit; the message lists the candidates.
    """
    mine = [file for file in files if split in _words(file)]
    other = [file for file in files if _words(file) & set(_SPLIT_WORDS)]
    neutral = [file for file in files if file not in other]
    candidates = mine or (neutral if len(neutral) == len(files) else [])
    if len(candidates) != 1:
        found = ", ".join(sorted(file.name for file in files)) or "none"
        raise SceneError(
            f"{folder}: expected {expected} of split {split!r}, found {found}; "
            "name the file with annotations="
        )
    return candidates[0]


def pick_folder(root: str | Path | None, names: Sequence[str], option: str = "images") -> Path:
    """Return the first folder below a root that exists, or the last name when none does.

    Args:
        root: folder of the data.
        names: possible names of the folder, relative to the root, the usual name last.
        option: argument that sets the folder instead, for the message.

    Returns:
        The folder; if it is missing, opening a file in it raises.

    Raises:
        ConfigError: without a root.
    """
    if root is None:
        raise ConfigError(f"expected root= or {option}=, got neither")
    for name in names:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    return Path(root) / names[-1]


def check_file_name(name: Any, where: str) -> str:
    """Require a file name that stays inside its folder.

    Args:
        name: relative path with forward slashes, as an annotation file states it.
        where: file and field, for the message.

    Returns:
        The name.

    Raises:
        SceneError: for anything but a string, and for a name that is empty, absolute, leads out of
            the folder, has control characters or is too long.
    """
    if not isinstance(name, str) or not name.strip():
        raise SceneError(f"{where}: expected a name, got {short(name)}")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
        raise SceneError(f"{where}: expected a path inside the image folder, got {short(name)}")
    longest = max(len(part.encode("utf-8", "surrogatepass")) for part in (*parts.parts, "."))
    if re.search(r"[\x00-\x1f\x7f]", name) or longest > _LONGEST_NAME or len(name) > _LONGEST_PATH:
        raise SceneError(f"{where}: expected a name that a file can have, got {short(name)}")
    return name


def is_xywh(value: Any) -> bool:
    """Return whether a JSON value is a box [x, y, width, height].

    Args:
        value: anything; true and false are not numbers.

    Returns:
        True for a list of four finite numbers below 1e9 in size; the sides may be negative.
    """
    if type(value) is not list or len(value) != 4 or not {int, float}.issuperset(map(type, value)):
        return False
    x, y, w, h = value  # a comparison is False for NaN; integers of any length compare
    return -1e9 < x < 1e9 and -1e9 < y < 1e9 and -1e9 < w < 1e9 and -1e9 < h < 1e9


def _words(file: Path) -> set[str]:
    """Return the words of a file's name: anno_val, val2017 and val-sur all contain val."""
    return set(re.findall(r"[a-z]+", file.stem.lower()))
