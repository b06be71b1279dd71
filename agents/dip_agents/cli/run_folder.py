"""What a run folder says about itself: ``config.toml`` and ``run.json``.

``config.toml`` holds every setting, resolved, so that ``dip COMMAND --config`` repeats the run, and
``resume.py`` goes on under the same settings or not at all. ``run.json`` holds the command lines,
versions, machine, state, times and headline numbers.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dip_agents.cli.config_files import config_toml
from dip_agents.cli.settings import Resolved
from dip_agents.runtime.errors import StorageError
from dip_agents.runtime.interrupts import StopRequestedError
from dip_env.errors import ConfigError, DipError

CONFIG, RECORD = "config.toml", "run.json"
FORMAT = 1
ANSWERS = ("F1", "precision", "recall", "reward", "look", "boxes_per_truth")
"""Metrics of what a policy answers and earns that the last lines of a command show, in order."""
LOOKS = ("look_coverage", "look_coverage_random", "look_coverage_oracle", "look_area")
"""Those of where it looks, beside random and oracle looks."""
HEADLINE = (*ANSWERS, *LOOKS)
"""Metrics that ``run.json`` holds."""
EVALUATION = (
    "metrics.json",
    "detections.json",
    "truth.json",
    "scenes.json",
    "consensus.json",
    "consensus_metrics.json",
    "traces",
)
"""What an evaluation writes into its folder."""
UNSAVED = frozenset(
    {"out", "resume", "resume_from", "overwrite", "seeds", "stop_at", "verbose", "json"}
)
"""Options that say how a command is run, not what it does."""
PACKAGES = (
    *("dip-env", "torch", "torchvision", "transformers", "peft", "accelerate", "tokenizers"),
    *("numpy", "scipy", "pillow", "gymnasium", "pycocotools", "vllm"),
)
"""Packages whose version may move a result; Pillow resizes, for one."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of writing to an open file, which name none."""


@dataclass
class RunRecord:
    """A run in progress; ``headline`` and ``device`` are the command's to fill.

    Args:
        out: folder of the run.
        headline: the few numbers that matter, by name.
        device: where the model ran.
    """

    out: Path
    headline: dict[str, Any] = field(default_factory=dict)
    device: str | None = None


@contextmanager
def recorded(
    out: Path, command: str, resolved: Resolved[Any], *, write: bool = True
) -> Iterator[RunRecord]:
    """Keep ``config.toml`` and ``run.json`` of a run while it goes on.

    Args:
        out: folder of the run, made when missing.
        command: its name.
        resolved: its settings.
        write: False for all processes of a run but the first.

    Yields:
        The record. An exception ends the run as ``failed``, a signal as ``stopped``.

    Raises:
        ConfigError: for a folder that cannot be written, or that another process writes to.
        StorageError: for a file of the run that cannot be written later on.
    """
    record = RunRecord(out)
    if not write:
        yield record
        return
    values = {name: v for name, v in resolved.values.items() if name not in UNSAVED}
    with _locked(out), _storage_named(out):
        _write(out / CONFIG, config_toml(command, resolved.options, values))
        yield from _kept(record, command, resolved.words)


def _kept(record: RunRecord, command: str, words: Sequence[str]) -> Iterator[RunRecord]:
    """Keep ``run.json`` up to date around the run."""
    out = record.out
    began = time.time()
    earlier = read_record(out).get("sessions", [])
    for one in earlier:
        if one.get("state") == "running":  # the lock says that it is not
            one.update(state="failed", error="ended without a record, as a killed process does")
    session: dict[str, Any] = {
        "command": shlex.join(["dip", command, *words]),
        "started": _moment(began),
        "versions": package_versions(),
        "machine": machine(),
    }

    def save(state: str) -> None:
        session.update(state=state, seconds=round(time.time() - began, 1), device=record.device)
        whole = {
            "format": FORMAT,
            "command": command,
            "state": state,
            "headline": record.headline,
            "sessions": [*earlier, session],
        }
        _write(out / RECORD, json.dumps(whole, indent=2) + "\n")

    save("running")
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | StopRequestedError)
        if not stopped:
            session["error"] = f"{type(error).__name__}: {error}"
        try:
            save("stopped" if stopped else "failed")
        except OSError as unsaved:  # must not hide what ended the run
            error.add_note(f"{out / RECORD} cannot be written either: {unsaved.strerror}")
        raise
    save("finished")


def try_folder(out: Path, name: str = "out") -> None:
    """Make a folder and write to it, before anything slow is begun.

    Args:
        out: the folder.
        name: of the option that names it.

    Raises:
        ConfigError: for a folder that cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b"x")
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{name}: expected a folder that can be written, got {shown_path(out)}: {reason}"
        ) from error


def shown_path(path: Path) -> str:
    """Return a path as a line of a message can hold it."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-50:]} ({len(text)} characters)"


@contextmanager
def _storage_named(out: Path) -> Iterator[None]:
    """Say in one line that a file of the run cannot be written, as on a full disk."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        inside = error.filename is not None and Path(str(error.filename)).is_relative_to(out)
        if isinstance(error, DipError) or not (inside or error.errno in _NO_ROOM):
            raise
        named = StorageError(
            f"{error.filename if inside else out}: cannot be written: {error.strerror}"
        )
        for note in getattr(error, "__notes__", ()):
            named.add_note(note)
        raise named from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make a folder and keep other processes from beginning a run in it; a kill ends that, too."""
    try_folder(out)
    descriptor = _lock(out)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor that is returned is closed; None where none can be."""
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"out: expected a folder of its own, got {folder}, which a running process writes to"
        ) from error
    except OSError:  # some network file systems lock no folders
        pass
    return descriptor


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` of a folder holds, or nothing where there is none.

    Args:
        folder: of a run.

    Raises:
        ConfigError: for a file that is no JSON object.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def seed_folders(folder: Path) -> list[Path]:
    """Return the runs of a folder of several seeds, by seed.

    Args:
        folder: of the runs.
    """
    found = [path for path in folder.glob("seed_*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def clear_evaluation(folder: Path) -> None:
    """Remove an evaluation, and nothing else, from a folder.

    Args:
        folder: may not exist.
    """
    traces = folder / "traces"
    for path in (*traces.glob("turns-*.jsonl"), *traces.glob("images/*.png")):
        path.unlink()
    for empty in (traces / "images", traces):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
    for name in EVALUATION:
        if (folder / name).is_file():
            (folder / name).unlink()


def free_folder(out: Path) -> Path:
    """Return a folder like ``out`` in which no run has been: itself, or with a number behind it."""
    number, folder = 1, out
    while (folder / CONFIG).exists() or (folder / "checkpoints").exists():
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


def repeated(file: Mapping[str, Any], given: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return the settings of a file; a run that it repeats does not end up in the first's folder.

    Args:
        file: settings of the file, by name; none where no file was named.
        given: what the file and the command line give.
        out: folder of the run.
    """
    return {"out": free_folder(out), **file} if file and "out" not in given else dict(file)


def package_versions() -> dict[str, str]:
    """Return the versions of packages that may move a result, and the commit of a checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if commit := _commit():
        found["commit"] = commit
    return found


def machine() -> dict[str, Any]:
    """Describe the machine by what moves speed and rounding, not by its name."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that this package is imported from, if it is one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _write(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    partial = path.with_name(f"unfinished-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
