"""Checkpoints: everything that a run needs to go on bit for bit.

A checkpoint is a folder ``step_000120`` with ``weights.safetensors``, ``state.pt`` (optimizer,
random states, the caller's extras) and ``manifest.json`` (step, config, size and CRC of the
files, and a checksum of its own). It is written under another name, flushed to disk and then
renamed, so a folder with such a name is always complete: killing the process at any moment leaves
the checkpoint before or this one. The file ``latest`` beside the folders names the one to resume
from; where that is damaged, a note on the error names an older one that is whole.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dip_agents.runtime.checkpoint_files import (
    MANIFEST,
    PARTIAL,
    STATE,
    WEIGHTS,
    as_json,
    check_files,
    complete_folders,
    flush_to_disk,
    free_name,
    read_manifest,
    read_pointer,
    remove,
    step_of,
    write_manifest,
    write_pointer,
)
from dip_agents.runtime.errors import CheckpointError, StorageError
from dip_agents.runtime.random_state import rng_state
from dip_env.errors import ConfigError

UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)
"""What reading or applying a state that some other program wrote may raise."""


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
        StorageError: when it cannot be written; the earlier checkpoints are as they were.
    """
    _check_plain(dict(extra or {}))
    root = Path(root)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{PARTIAL}*"):
            remove(leftover)
        name = free_name(root, step)
        partial = root / f"{PARTIAL}{name}"
        partial.mkdir()
        state = {"step": step, "optimizer": dict(optimizer), "extra": dict(extra or {})}
        _write_files(partial, weights, {**state, "rng": rng_state()}, config)
        os.rename(partial, root / name)
        flush_to_disk(root)
        write_pointer(root, name)
        _prune(root, root / name, step, keep)
    return root / name


def _write_files(
    folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write what a checkpoint consists of, and wait until it is on the disk."""
    own, aliases = _without_shared(weights)
    with (folder / STATE).open("wb") as file:  # given the name, torch hides that a disk is full
        torch.save(dict(state), file)
    save_file(own, folder / WEIGHTS)
    shutil.copymode(folder / STATE, folder / WEIGHTS)  # safetensors lets nobody else read its own
    write_manifest(folder, {"step": state["step"], "config": dict(config), "aliases": aliases})
    for name in (WEIGHTS, STATE, MANIFEST):
        flush_to_disk(folder / name)
    flush_to_disk(folder)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Say in one line that a checkpoint cannot be written, and make room for what else is to be."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _storage_reason(error)
        if reason is None:
            raise
        try:
            for leftover in root.glob(f"{PARTIAL}*"):
                remove(leftover)
        except OSError as another:
            reason = f"{reason}; {another}"
        raise StorageError(f"{root}: a checkpoint cannot be written: {reason}") from error


def _storage_reason(error: BaseException) -> str | None:
    """Return why a file cannot be written, None for an error that is not about files."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        return str(error)
    return None if error.__context__ is None else _storage_reason(error.__context__)


def latest_checkpoint(root: Path | str) -> Path | None:
    """Find the checkpoint to resume from.

    Args:
        root: folder of the run's checkpoints; may not exist.

    Returns:
        The folder that ``latest`` names, the newest complete one when the first save was cut short
        before it wrote ``latest``, or None when there is none.

    Raises:
        CheckpointError: when ``latest`` is damaged or names a folder that is gone.
    """
    root = Path(root)
    with _naming_a_whole_one(root, None):
        found = read_pointer(root)
    if found is not None:
        return found
    complete = complete_folders(root)
    return complete[-1][1] if complete else None


def find_checkpoint(root: Path | str, which: Path | str) -> Path:
    """Find a checkpoint that a user names, the newest or an older one.

    Args:
        root: folder of the run's checkpoints.
        which: a step, the name of a folder in ``root``, or the path of a folder elsewhere.

    Returns:
        Its folder; of several attempts at a step the last one.

    Raises:
        ConfigError: when there is none of that name; lists those of the run.
    """
    root, name = Path(root), str(which)
    complete = complete_folders(root)
    found = [path for step, path in complete if name == path.name or name == str(step)]
    if found:
        return found[-1]
    if step_of(Path(which)) is not None and Path(which).is_dir():
        return Path(which)
    there = ", ".join(path.name for _, path in complete) or "none"
    raise ConfigError(
        f"resume_from: expected a step or folder of a checkpoint in {root} ({there}), got {name!r}"
    )


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
    with _naming_a_whole_one(folder.parent, folder):
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        weights = _read_weights(folder / WEIGHTS, manifest["aliases"])
        state = _read_state(folder / STATE, manifest["step"])
    if expected_config is not None:
        _check_config(folder, manifest["config"], as_json(expected_config), may_differ)
    return Checkpoint(
        folder,
        manifest["step"],
        weights,
        state["optimizer"],
        state["rng"],
        manifest["config"],
        state["extra"],
    )


def _read_weights(path: Path, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
        return weights | {alias: weights[source] for alias, source in aliases.items()}
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: expected readable weights, got: {error!r}") from error


def _read_state(path: Path, step: int) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: expected a readable state, got: {error!r}") from error
    parts = {"optimizer", "rng", "extra"}
    if not isinstance(state, dict) or not all(isinstance(state.get(p), dict) for p in parts):
        raise CheckpointError(f"{path}: expected {', '.join(sorted(parts))}, got another state")
    if state.get("step") != step:
        raise CheckpointError(f"{path}: expected the state of step {step}, got {state.get('step')}")
    return state


@contextmanager
def _naming_a_whole_one(root: Path, damaged: Path | None) -> Iterator[None]:
    """Add the newest other checkpoint that is whole to the error about one that is not."""
    try:
        yield
    except CheckpointError as error:
        for _, folder in reversed(complete_folders(root)):
            if folder != damaged and _is_whole(folder):
                error.add_note(f"{folder} is whole: go on from there with resume_from")
                break
        else:
            error.add_note("no other checkpoint there is whole")
        raise


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, read_manifest(folder))
    except CheckpointError:
        return False
    return True


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


def _prune(root: Path, written: Path, step: int, keep: int) -> None:
    others = [(s, path) for s, path in complete_folders(root) if path != written]
    earlier = [path for s, path in others if s < step]
    stay = earlier[-(keep - 1) :] if keep > 1 else []
    for _, path in others:
        if path not in stay:
            remove(path)


def _resolve(path: Path) -> Path:
    if step_of(path) is not None or (path / MANIFEST).is_file():
        return path
    found = latest_checkpoint(path)
    if found is None:
        raise CheckpointError(f"{path}: expected a checkpoint, got none there")
    return found


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
