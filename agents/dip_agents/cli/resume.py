"""What a command that resumes needs: the settings of the run, and the checkpoint to go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.cli.config_files import read_config
from dip_agents.cli.options import Option
from dip_agents.cli.run_folder import CONFIG, UNSAVED, seed_folders
from dip_agents.cli.settings import differences
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


def is_resumed(given: Mapping[str, Any]) -> bool:
    """Return whether a run is to go on, from the newest checkpoint or from another.

    Args:
        given: settings by name.
    """
    return bool(given.get("resume")) or given.get("resume_from") is not None


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
        ConfigError: where checkpoints lie without settings, a setting is not among those that were
            saved, or differs; names each.
    """
    path = folder / CONFIG
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        return {}
    if not path.is_file():
        if any(folder.glob("checkpoints/step_*")):
            raise ConfigError(
                f"{path}: expected the settings of the run to go on with, got no such file"
            )
        if seeds := [int(run.name[5:]) for run in seed_folders(folder)]:
            raise ConfigError(
                f"--resume: expected --seeds {' '.join(map(str, seeds))}, for each of which "
                f"{folder} holds a run"
            )
        return {}
    saved = read_config(path, command, options)
    new = {option.name for option in options} - saved.keys() - may_differ - UNSAVED
    if new:
        raise ConfigError(
            f"{path}: expected a value for {', '.join(sorted(new))}, got none: a version without "
            "began this run; add what it is to go on with"
        )
    other = differences(saved, given, may_differ | UNSAVED)
    if other:
        raise ConfigError(
            f"--resume: expected the settings of the run in {folder}, got {'; '.join(other)}; "
            "leave them out, or begin anew with another --out"
        )
    return saved


def checkpoint_to_go_on_from(
    out: Path, steps: int, which: str | None, console: Console
) -> Path | bool:
    """Find where a resumed run goes on, and tell if there is anything special about it.

    Args:
        out: folder of the run.
        steps: of the whole run.
        which: the checkpoint that was asked for, by step or folder, or None for the newest.
        console: where to print.

    Returns:
        The folder of the checkpoint; True for the newest one, if there is any.

    Raises:
        ConfigError: where there is no such checkpoint, or more steps are done already.
    """
    from dip_agents.cli.output import say
    from dip_agents.runtime.checkpoint_files import step_of
    from dip_agents.runtime.checkpoints import find_checkpoint, latest_checkpoint

    root = out / "checkpoints"
    found = latest_checkpoint(root) if which is None else find_checkpoint(root, which)
    if found is None:
        say(console, f"no checkpoint in {out} yet: from the first step on")
        return True
    done = step_of(found) or 0
    if done > steps:
        raise ConfigError(f"steps: expected at least the {done} that are done, got {steps}")
    if done == steps:
        say(console, f"all {steps} steps are done already")
    elif which is not None:
        say(console, f"going on after step {done}, from {found}; later checkpoints are dropped")
    return True if which is None else found


def refuse_other_run(out: Path) -> None:
    """Ensure that a new run begins in a folder without checkpoints.

    Args:
        out: folder of the run.

    Raises:
        CheckpointError: for a folder with a checkpoint; a note names the options.
    """
    from dip_agents.runtime.checkpoints import check_new_run
    from dip_agents.runtime.errors import CheckpointError

    try:
        check_new_run(out / "checkpoints")
    except CheckpointError as error:
        error.add_note("--out names another folder")
        raise
