"""``dip config``: print every setting of a command, with its help, as a file to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.config_files import config_toml
from dip_agents.cli.options import options_of
from dip_agents.cli.run_folder import UNSAVED
from dip_agents.cli.settings import Resolved, value_at

EXAMPLES = ("dip config train > mine.toml", "dip train --config mine.toml --steps 50")


@dataclass(frozen=True)
class Settings:
    """Print every setting of a command with its default and help, as TOML for --config."""

    command: Literal["train", "sft", "evaluate", "experiment", "audit", "scenes"]
    """Command whose settings are printed."""
    model: str = "tiny"
    """The model whose rules are the defaults."""

    POSITIONAL = ("command",)


def run(resolved: Resolved[Settings]) -> int:
    """Print a settings file.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    args = resolved.settings
    kind = COMMANDS[args.command].load().Settings
    given = {"model": args.model} if "model" in resolved.typed else {}
    options = options_of(kind)
    start = kind.defaults(given)
    values = {o.name: value_at(start, o.path) for o in options if o.name not in UNSAVED}
    print(config_toml(args.command, options, values, notes=True), end="")
    return 0
