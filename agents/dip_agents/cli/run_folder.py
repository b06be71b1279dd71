"""What a run folder says about itself: ``config.toml`` and ``run.json``.

``config.toml`` holds every setting, resolved, so that ``dip COMMAND --config`` repeats the run and
``--resume`` goes on under the same settings or not at all. ``run.json`` holds the command lines,
versions, machine, state, times and headline numbers.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dip_agents.cli.config_files import config_toml, read_config
from dip_agents.cli.options import Option
from dip_agents.cli.settings import Resolved, differences
from dip_env.errors import ConfigError

CONFIG, RECORD = "config.toml", "run.json"
FORMAT = 1
UNSAVED = frozenset({"out", "resume", "overwrite", "seeds", "stop_at", "verbose", "json"})
"""Options that say how a command is run, not what it does."""
PACKAGES = (
    *("dip-env", "torch", "torchvision", "transformers", "peft", "accelerate", "tokenizers"),
    *("numpy", "scipy", "pillow", "gymnasium", "pycocotools", "vllm"),
)
"""Packages whose version may move a result; Pillow resizes, for one."""


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
        The record. An exception ends the run as ``failed``, Ctrl-C as ``stopped``.
    """
    record = RunRecord(out)
    if not write:
        yield record
        return
    out.mkdir(parents=True, exist_ok=True)
    values = {name: v for name, v in resolved.values.items() if name not in UNSAVED}
    _write(out / CONFIG, config_toml(command, resolved.options, values))
    began = time.time()
    earlier = read_record(out).get("sessions", [])
    session: dict[str, Any] = {
        "command": shlex.join(["dip", command, *resolved.words]),
        "started": _moment(began),
        "versions": package_versions(),
        "machine": machine(),
    }
    state = "failed"

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
        state = "finished"
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except BaseException as error:
        session["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        save(state)


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
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def saved_settings(
    folder: Path,
    command: str,
    options: Sequence[Option],
    given: Mapping[str, Any],
    may_differ: frozenset[str],
) -> dict[str, Any]:
    """Return the settings of a run that is to go on.

    Args:
        folder: of the run.
        command: that made it.
        options: of that command.
        given: what is set now, by name.
        may_differ: what of that may be another value than the run has.

    Returns:
        The saved values by name; none where no run has been begun there.

    Raises:
        ConfigError: where checkpoints lie without settings, or a setting differs; names each.
    """
    path = folder / CONFIG
    if not path.is_file():
        if any(folder.glob("checkpoints/step_*")):
            raise ConfigError(
                f"{path}: expected the settings of the run to go on with, got no such file"
            )
        return {}
    saved = read_config(path, command, options)
    other = differences(saved, given, may_differ | UNSAVED)
    if other:
        raise ConfigError(
            f"--resume: expected the settings of the run in {folder}, got {'; '.join(other)}; "
            "leave them out, or begin anew with another --out"
        )
    return saved


def refuse_other_run(out: Path) -> None:
    """Ensure that a new run begins in a folder without checkpoints.

    Args:
        out: folder of the run.

    Raises:
        CheckpointError: for a folder with a checkpoint; a note names the options.
    """
    from dip_agents.runtime.checkpoints import CheckpointError, check_new_run

    try:
        check_new_run(out / "checkpoints")
    except CheckpointError as error:
        error.add_note("go on with --resume, or choose another folder with --out")
        raise


def free_folder(out: Path) -> Path:
    """Return a folder like ``out`` in which no run has been: itself, or with a number behind it."""
    number, folder = 1, out
    while (folder / CONFIG).exists() or (folder / "checkpoints").exists():
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


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
