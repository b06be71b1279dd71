"""The commands of ``dip``, told apart without loading any of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Command:
    """One command; its module has ``Settings``, ``run`` and the texts of its help.

    Args:
        name: as typed.
        group: heading in ``dip --help``.
        summary: one line.
        module: below ``dip_agents.cli``.
        extra: of the package, that has what it imports.
    """

    name: str
    group: str
    summary: str
    module: str
    extra: str = "train"

    def load(self) -> ModuleType:
        """Import the module of the command; that of ``train`` still loads no torch."""
        return importlib.import_module(f"dip_agents.cli.{self.module}")


COMMANDS = {
    command.name: command
    for command in (
        Command("train", "Start", "improve a model by GRPO and measure the gain", "train"),
        Command("evaluate", "Start", "measure a model or a scripted policy", "evaluate"),
        Command("compare", "Start", "compare runs on the same scenes, in pairs", "compare", "cli"),
        Command("scenes", "Data", "count what a source holds and draw some of it", "scenes", "cli"),
        Command("score", "Data", "score a file of detections by a protocol", "score", "cli"),
        Command("sft", "Research", "fine-tune a model on demonstrations of the oracle", "sft"),
        Command("experiment", "Research", "change one thing about looking", "experiment"),
        Command("audit", "Research", "play adversaries against a reward", "audit", "cli"),
        Command("doctor", "Setup", "check this installation", "doctor", "cli"),
        Command("config", "Setup", "print the settings of a command as a file", "config", "cli"),
        Command("completion", "Setup", "print a script that completes", "completion", "cli"),
    )
}
"""Every command by its name, in the order of ``dip --help``."""

OVERVIEW = """\
usage: dip COMMAND [OPTIONS]

Teach multimodal language models to look before they answer in crowded scenes.
"""

HINTS = """\
dip COMMAND --help   the usual options and examples
dip help COMMAND     every option
dip --version        versions of this package and of what it runs on
"""


def overview() -> str:
    """Return what ``dip --help`` prints."""
    lines = [OVERVIEW]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(group)
        lines += [
            f"  {command.name:<12}{command.summary}"
            for command in COMMANDS.values()
            if command.group == group
        ]
        lines.append("")
    return "\n".join(lines) + "\n" + HINTS
