"""The files of a checkpoint: their names, how damage shows, and how they reach the disk whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dip_agents.runtime.errors import CheckpointError

FORMAT_VERSION = 2
WEIGHTS, STATE, MANIFEST, LATEST = "weights.safetensors", "state.pt", "manifest.json", "latest"
PARTIAL = "unfinished-"
"""How the name of what is not yet, or no longer, whole begins."""

_COMPLETE = re.compile(r"step_([0-9]{6,})(?:-([0-9]+))?")  # step, attempt
_CHECKSUM = "crc32"


def step_of(folder: Path) -> int | None:
    """Return the step that the name of a checkpoint folder states, None for any other name."""
    match = _COMPLETE.fullmatch(folder.name)
    return int(match[1]) if match else None


def free_name(root: Path, step: int) -> str:
    """Return a folder name for a step; never that of a checkpoint that is still needed."""
    name, attempt = f"step_{step:06d}", 1
    while (root / name).exists():
        attempt += 1
        name = f"step_{step:06d}-{attempt}"
    return name


def complete_folders(root: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of all complete checkpoints, oldest first."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        if (match := _COMPLETE.fullmatch(path.name)) and path.is_dir():
            found.append((int(match[1]), int(match[2] or 1), path))
    return [(step, path) for step, _, path in sorted(found)]


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write what a checkpoint is, with the checksums of its files and one of all this.

    Args:
        folder: of the checkpoint; weights and state are in it already.
        values: step, config and aliases, as JSON values.
    """
    body = as_json({"format": FORMAT_VERSION, **values})
    body["files"] = {file: _fingerprint(folder / file) for file in (WEIGHTS, STATE)}
    whole = {**body, _CHECKSUM: _checksum(body)}
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check it against itself and the name of the folder.

    Args:
        folder: of the checkpoint; one with a name of its own may hold any step.

    Returns:
        step, config, aliases and files, of the types that ``write_manifest`` writes.

    Raises:
        CheckpointError: for a manifest that is missing, damaged or of another step.
    """
    path = folder / MANIFEST
    manifest = _json_object(path)
    if manifest.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format {FORMAT_VERSION}, got {manifest.get('format')!r}"
        )
    checksum = manifest.pop(_CHECKSUM, None)
    if checksum != _checksum(manifest):
        raise CheckpointError(f"{path}: expected another CRC than {checksum!r}; damaged?")
    for name, kind in (("step", int), ("config", dict), ("aliases", dict), ("files", dict)):
        if not isinstance(manifest.get(name), kind):
            raise CheckpointError(
                f"{path}: expected field {name!r} of type {kind.__name__}, "
                f"got {manifest.get(name)!r}"
            )
    step = step_of(folder)
    if step is not None and step != manifest["step"]:
        raise CheckpointError(
            f"{path}: expected step {step}, as the folder is named, got {manifest['step']}"
        )
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check size and checksum of the files of a checkpoint.

    Raises:
        CheckpointError: naming the file that is missing, cut short or damaged.
    """
    for name in (WEIGHTS, STATE):
        path, expected = folder / name, manifest["files"].get(name)
        if not isinstance(expected, dict) or expected.keys() != {"bytes", _CHECKSUM}:
            raise CheckpointError(f"{folder / MANIFEST}: expected size and CRC of {name}, got none")
        if not path.is_file():
            raise CheckpointError(f"{path}: expected {expected['bytes']} bytes, got no such file")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{path}: expected {expected['bytes']} bytes, got {path.stat().st_size}; truncated?"
            )
        try:
            found = _fingerprint(path)
        except OSError as error:
            raise CheckpointError(
                f"{path}: expected a readable file: {error.strerror or error}"
            ) from error
        if found[_CHECKSUM] != expected[_CHECKSUM]:
            raise CheckpointError(
                f"{path}: expected CRC {expected[_CHECKSUM]}, got another; damaged?"
            )


def read_pointer(root: Path) -> Path | None:
    """Return the folder that ``latest`` names, None where there is no such file.

    Args:
        root: folder of the checkpoints.

    Raises:
        CheckpointError: for one that does not name a checkpoint folder that is there.
    """
    pointer = root / LATEST
    if not pointer.exists():
        return None
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except (UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{pointer}: expected the name of a folder: {error}") from error
    folder = root / name if _COMPLETE.fullmatch(name) else None
    if folder is None or not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{pointer}: expected a checkpoint folder, got {name[:60]!r}")
    return folder


def write_pointer(root: Path, name: str) -> None:
    """Let ``latest`` name a folder, in one move."""
    pointer = root / f"{PARTIAL}{LATEST}"
    pointer.write_text(name + "\n", encoding="utf-8")
    flush_to_disk(pointer)
    os.replace(pointer, root / LATEST)
    flush_to_disk(root)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or folder; a folder loses its name first, so half of one never looks whole."""
    if not path.is_dir():
        path.unlink()
        return
    if not path.name.startswith(PARTIAL):
        hidden = path.with_name(f"{PARTIAL}{path.name}")
        os.rename(path, hidden)
        path = hidden
    shutil.rmtree(path)


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring values into the form they have after a round trip through a file."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return found


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a manifest, got: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _checksum(body: Mapping[str, Any]) -> int:
    """Return the CRC of JSON values, however they are laid out in a file."""
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _fingerprint(path: Path) -> dict[str, int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, _CHECKSUM: crc}
