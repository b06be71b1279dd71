from __future__ import annotations

import pytest

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.options import options_of


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_fits_a_screen_and_every_usual_option_exists(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, error = run(name, "--help")
    assert (code, error) == (0, "")
    assert len(shown.splitlines()) <= 45
    assert max(map(len, shown.splitlines())) <= 80
    assert "examples:" in shown and f"dip {name}" in shown
    settings = COMMANDS[name].load().Settings
    assert set(getattr(settings, "USUAL", ())) <= {option.name for option in options_of(settings)}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_long_help_has_every_option_with_its_meaning(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = run("help", name)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80
    for option in options_of(COMMANDS[name].load().Settings):
        flag = option.flag.replace("--", "--[no-]", 1) if option.kind.switch else option.flag
        assert f"  {flag}" in shown, flag
        assert option.help, f"{name} {flag} says nothing"
    assert "--config FILE" in shown


def test_choices_are_explained_one_by_one_where_the_sentence_does(run):
    shown = run("help", "train")[1]
    assert "native: the weights in this process" in shown
    assert "One of f_beta, weighted_sum." in shown.replace("\n" + " " * 26, " ")


def test_the_headings_are_words(run):
    shown = run("help", "train")[1]
    for heading in (
        "Scenes",
        "Model",
        "Episode rules",
        "Reward",
        "Optimization",
        "Sampling engine",
    ):
        assert f"\n{heading}\n" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_60_columns_but_for_its_examples(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    examples = "\n".join(COMMANDS[name].load().EXAMPLES)
    for words in ((name, "--help"), ("help", name)):
        lines = run(*words)[1].splitlines()
        assert [line for line in lines if len(line) > 60 and line.strip() not in examples] == []
