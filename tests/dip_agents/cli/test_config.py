from __future__ import annotations

import pytest

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.settings import resolve


@pytest.mark.parametrize("name", ["train", "sft", "evaluate", "experiment", "audit", "scenes"])
def test_the_printed_settings_are_the_defaults(run, settings, tmp_path, name):
    code, shown, error = run("config", name)
    assert (code, error) == (0, "")
    path = tmp_path / "c.toml"
    path.write_text(shown)
    found = resolve(COMMANDS[name].load().Settings, name, ["--config", str(path)])
    assert found.settings == settings(name)
    assert shown.count("\n# ") > 5  # each with its help


def test_the_defaults_are_those_of_the_named_model(run, folder, minimal_prompt_rules):
    shown = run("config", "train", "--model", folder)[1]
    assert f"view_size = {minimal_prompt_rules.view_size}" in shown
    assert f'model = "{folder}"' in shown
