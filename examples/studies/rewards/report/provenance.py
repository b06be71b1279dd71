"""Where and how a run was made: commit, date, command, machine; nothing about its results."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODULE = "examples.studies.rewards"


def command_of(arguments: Sequence[str]) -> str:
    """Return the command line as a user would type it, without the folder, which is their own."""
    given = iter(arguments)
    kept = []
    for word in given:
        if word == "--out":
            next(given, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(["python", "-m", MODULE, *kept])


def provenance(command: str) -> dict[str, Any]:
    """Describe the machine, the code and the moment.

    Args:
        command: what was typed.

    Returns:
        Plain values; no name of the machine, user or folder.
    """
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": command,
        "commit": done.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, {_gpu()}",
        "versions": {
            "python": platform.python_version(),
            # Local parts such as +cpu say how a package was built, not what it does.
            **{name: version(name).partition("+")[0] for name in ("torch", "transformers")},
        },
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
