from __future__ import annotations

import shutil
import subprocess

import pytest

from dip_agents.cli.completion import bash_script, fish_script, zsh_script


def complete(*words):
    """Return what bash offers for the last word."""
    script = f"""{bash_script()}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_dip; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("dip", "tr"), ["train"]),
        (("dip", "train", "--group"), ["--group-size"]),
        (("dip", "train", "--no-res"), ["--no-resume"]),
        (("dip", "train", "--loss", "c"), ["clipped", "cispo"]),
        (("dip", "experiment", "look"), ["look-budget"]),
        (("dip", "help", "sc"), ["scenes", "score"]),
        (("dip", "--v"), ["--version"]),
        (("dip", "train", "--out", ""), []),  # bash then completes names of files
        (("dip", "train", "--config", ""), []),
        (("dip", "compare", ""), []),
        (("dip", "compare", "--format", ""), ["table", "markdown", "csv", "json"]),
        (("dip", "compare", "--form"), ["--format"]),
    ],
)
def test_bash_offers_commands_options_and_choices(words, offered):
    assert complete(*words) == offered


def test_every_shell_gets_a_script(run):
    for shell, script in {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}.items():
        assert run("completion", shell) == (0, script(), "")
    assert zsh_script().startswith("#compdef dip\n")
    assert "-l group-size -x" in fish_script() and "-l config -r -F" in fish_script()
