"""Checkpoints: everything that a run needs to go on bit for bit.

A checkpoint is a folder ``step_000120`` with ``weights.safetensors``, ``state.pt`` (optimizer,
random states, the caller's extras) and ``manifest.json`` (step, config, size and CRC of the
files). It is written under another name, flushed to disk and then renamed, so a folder with such a
name is always complete: killing the process at any moment leaves the checkpoint before or this one.
The file ``latest`` beside the folders names the one to resume from.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dip_agents.runtime.random_state import check_rng_state, rng_state
from dip_env.errors import DipError

FORMAT_VERSION = 1
WEIGHTS, STATE, MANIFEST, LATEST = "weights.safetensors", "state.pt", "manifest.json", "latest"

_COMPLETE = re.compile(r"step_(\d{6,})(?:-(\d+))?")  # step, attempt
_PARTIAL = "unfinished-"


class CheckpointError(DipError, ValueError):
    """A checkpoint is missing, damaged or belongs to another run; the message names the file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Args:
        path: its folder.
        step: updates done when it was written.
        weights: the model's state dict.
        optimizer: the optimizer's state dict.
        rng: for ``set_rng_state``; restore it last, after everything that may draw numbers.
        config: the run's settings as plain values.
        extra: what the caller gave to ``save_checkpoint``.
    """

    path: Path
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: dict[str, Any]
    config: dict[str, Any]
    extra: dict[str, Any]


def save_checkpoint(
    root: Path | str,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    keep: int = 3,
) -> Path:
    """Write a checkpoint with the current random states and drop those no longer wanted.

    Args:
        root: folder of the run's checkpoints, made when missing.
        step: updates done so far.
        weights: the model's state dict; tensors that share memory are written once.
        optimizer: the optimizer's state dict.
        config: settings as JSON values; compared on loading.
        extra: tensors, numbers, strings, lists, tuples and dicts of the caller.
        keep: how many checkpoints stay; older ones go, and so do those of later steps, which an
            earlier resume has made part of another run.

    Returns:
        The folder written.

    Raises:
        TypeError: when ``extra`` holds an object that a safe load would refuse.
    """
    _check_plain(dict(extra or {}))
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{_PARTIAL}*"):
        _remove(leftover)
    name = _free_name(root, step)
    partial = root / f"{_PARTIAL}{name}"
    partial.mkdir()

    own, aliases = _without_shared(weights)
    save_file(own, partial / WEIGHTS)
    state = {"optimizer": dict(optimizer), "rng": rng_state(), "extra": dict(extra or {})}
    torch.save(state, partial / STATE)
    manifest = {
        "format": FORMAT_VERSION,
        "step": step,
        "config": dict(config),
        "aliases": aliases,
        "files": {file: _fingerprint(partial / file) for file in (WEIGHTS, STATE)},
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    for file in (WEIGHTS, STATE, MANIFEST):
        _flush_to_disk(partial / file)
    _flush_to_disk(partial)
    os.rename(partial, root / name)
    _flush_to_disk(root)

    pointer = root / f"{_PARTIAL}{LATEST}"
    pointer.write_text(name + "\n", encoding="utf-8")
    _flush_to_disk(pointer)
    os.replace(pointer, root / LATEST)
    _flush_to_disk(root)
    _prune(root, root / name, step, keep)
    return root / name


def latest_checkpoint(root: Path | str) -> Path | None:
    """Find the checkpoint to resume from.

    Args:
        root: folder of the run's checkpoints; may not exist.

    Returns:
        The folder that ``latest`` names, the newest complete one when the first save was cut short
        before it wrote ``latest``, or None when there is none.

    Raises:
        CheckpointError: when ``latest`` names a folder that is gone.
    """
    root = Path(root)
    pointer = root / LATEST
    if pointer.is_file():
        path = root / pointer.read_text(encoding="utf-8").strip()
        if not (path / MANIFEST).is_file():
            raise CheckpointError(f"{pointer}: expected a checkpoint folder, got {path.name!r}")
        return path
    complete = _complete_folders(root)
    return complete[-1][1] if complete else None


def check_new_run(root: Path | str) -> None:
    """Ensure that a new run begins in a folder without checkpoints.

    Args:
        root: folder of the run's checkpoints; may not exist.

    Raises:
        CheckpointError: for a folder with a checkpoint.
    """
    if found := latest_checkpoint(root):
        raise CheckpointError(
            f"{found}: expected an empty folder for a new run; set resume to go on from there"
        )


def load_checkpoint(
    path: Path | str,
    expected_config: Mapping[str, Any] | None = None,
    may_differ: Collection[str] = (),
) -> Checkpoint:
    """Read a checkpoint and check that it is whole and belongs to this run.

    Args:
        path: a checkpoint folder, or the folder of checkpoints (then the latest).
        expected_config: the settings of the run that wants to go on, or None to take any.
        may_differ: settings that may have changed.

    Returns:
        The checkpoint with all tensors on the CPU; nothing has been restored yet.

    Raises:
        CheckpointError: for a missing, truncated or damaged file, or for other settings.
    """
    folder = _resolve(Path(path))
    manifest = _read_manifest(folder / MANIFEST)
    for file, expected in manifest["files"].items():
        _check_file(folder / file, expected)
    if expected_config is not None:
        _check_config(folder, manifest["config"], _as_json(expected_config), may_differ)
    try:
        weights = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder}: expected a readable checkpoint, got: {error}") from error
    for alias, source in manifest["aliases"].items():
        weights[alias] = weights[source]
    return Checkpoint(
        folder,
        manifest["step"],
        weights,
        state["optimizer"],
        state["rng"],
        manifest["config"],
        state["extra"],
    )


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a state dict fits a model before anything is overwritten.

    Args:
        weights: from a checkpoint.
        expected: the model's own state dict.

    Raises:
        CheckpointError: naming the first tensor that is missing, extra or of another shape.
    """
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"weights: expected tensor {name!r}, got none of that name")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"weights: expected {name!r} of shape {tuple(tensor.shape)}, "
                f"got {tuple(weights[name].shape)}"
            )
    for name in weights:
        if name not in expected:
            raise CheckpointError(f"weights: expected no tensor {name!r}; is it another model's?")


def check_random_state(found: Checkpoint) -> None:
    """Check that a checkpoint's random state can go on here, before anything is overwritten.

    Args:
        found: the checkpoint.

    Raises:
        CheckpointError: for one written with a GPU where there is none, or another kind of it.
    """
    try:
        check_rng_state(found.rng)
    except ValueError as error:
        raise CheckpointError(f"{found.path}: {error}") from error


def _check_plain(extra: dict[str, Any]) -> None:
    """Check now, not when a run resumes, that everything can be loaded again."""
    copy = io.BytesIO()
    torch.save(extra, copy)
    copy.seek(0)
    try:
        torch.load(copy, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TypeError(f"extra: expected tensors and plain values, got: {error}") from error


def _without_shared(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split off names that point to a tensor already listed (tied embeddings, for one)."""
    own: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in weights.items():
        tensor = tensor.detach()
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            # A view of a larger storage would be refused by safetensors; a clone stands alone.
            shares = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
            own[name] = tensor.clone() if shares else tensor.contiguous()
    return own, aliases


def _free_name(root: Path, step: int) -> str:
    """Return a folder name for this step; never that of a checkpoint that is still needed."""
    name, attempt = f"step_{step:06d}", 1
    while (root / name).exists():
        attempt += 1
        name = f"step_{step:06d}-{attempt}"
    return name


def _complete_folders(root: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of all complete checkpoints, oldest first."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        if (match := _COMPLETE.fullmatch(path.name)) and path.is_dir():
            found.append((int(match[1]), int(match[2] or 1), path))
    return [(step, path) for step, _, path in sorted(found)]


def _prune(root: Path, written: Path, step: int, keep: int) -> None:
    others = [(s, path) for s, path in _complete_folders(root) if path != written]
    earlier = [path for s, path in others if s < step]
    stay = earlier[-(keep - 1) :] if keep > 1 else []
    for _, path in others:
        if path not in stay:
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a file or folder; a folder loses its name first, so half of one never looks whole."""
    if not path.is_dir():
        path.unlink()
        return
    if not path.name.startswith(_PARTIAL):
        hidden = path.with_name(f"{_PARTIAL}{path.name}")
        os.rename(path, hidden)
        path = hidden
    shutil.rmtree(path)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict[str, int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def _resolve(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    if _COMPLETE.fullmatch(path.name) and path.is_dir():
        raise CheckpointError(f"{path / MANIFEST}: expected a manifest, got no such file")
    found = latest_checkpoint(path)
    if found is None:
        raise CheckpointError(f"{path}: expected a checkpoint, got none there")
    return found


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        got = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise CheckpointError(f"{path}: expected format {FORMAT_VERSION}, got {got!r}")
    if missing := {"step", "config", "aliases", "files"} - manifest.keys():
        raise CheckpointError(f"{path}: expected field {min(missing)!r}, got none")
    return manifest


def _check_file(path: Path, expected: Mapping[str, int]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected {expected['bytes']} bytes, got no such file")
    if path.stat().st_size != expected["bytes"]:
        raise CheckpointError(
            f"{path}: expected {expected['bytes']} bytes, got {path.stat().st_size}; truncated?"
        )
    if _fingerprint(path)["crc32"] != expected["crc32"]:
        raise CheckpointError(f"{path}: expected CRC {expected['crc32']}, got another; damaged?")


def _check_config(
    folder: Path,
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    may_differ: Collection[str],
) -> None:
    differing = [
        f"{name} {saved.get(name)!r} there, {wanted.get(name)!r} here"
        for name in sorted(saved.keys() | wanted.keys())
        if name not in may_differ and saved.get(name) != wanted.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{folder / MANIFEST}: expected the settings of this run, got {'; '.join(differing)}"
        )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring settings into the form they have after a round trip through the manifest."""
    return json.loads(json.dumps(dict(config)))
