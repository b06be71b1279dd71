"""A small saved model, and settings read from a command line."""

from __future__ import annotations

import pytest

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.settings import resolve
from dip_agents.models.loading import save_model


@pytest.fixture
def folder(fresh_micro, minimal_prompt_rules, tmp_path):
    return save_model(fresh_micro(), tmp_path / "model", minimal_prompt_rules)


@pytest.fixture
def settings():
    """Return a function from a command line to the settings of its command."""

    def read(command, *words):
        kind = COMMANDS[command].load().Settings
        return resolve(kind, command, [str(word) for word in words]).settings

    return read


@pytest.fixture
def small(folder):
    """Words that make a run of a few seconds."""
    return [
        *("--model", folder, "--steps", 2, "--scenes-per-step", 2, "--group-size", 3, "--n", 2),
        *("--max-new-tokens", 16, "--dtype", "float32"),
    ]
