from __future__ import annotations

import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dip_agents.cli import main as main_module
from dip_agents.cli.commands import COMMANDS


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",), ("help", "--help")])
def test_without_a_command_the_commands_are_listed(run, words):
    code, shown, error = run(*words)
    assert (code, error) == (0, "")
    assert all(f"  {name}" in shown for name in COMMANDS)
    assert len(shown.splitlines()) <= 45


def test_the_version_names_what_results_depend_on(run):
    code, shown, _ = run("--version")
    assert code == 0
    assert shown.startswith(f"dip-env {version('dip-env')} (torch ")
    assert "pillow" in shown and "python" in shown


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian", "dip: no command 'trian'; did you mean 'train'?"),
        ("zzz", "dip: no command 'zzz'; dip --help lists them"),
        ("--vershun", "dip: no option '--vershun'; dip --help lists them"),
    ],
)
def test_a_misspelled_command_is_reported_in_one_line(run, word, message):
    assert run(word) == (2, "", message + "\n")
    if not word.startswith("-"):
        assert run("help", word) == (2, "", message + "\n")


def test_a_missing_package_is_named_with_the_extra_that_has_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("dip_agents.cli.train_run")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers.utils.logging", None)
    code, shown, error = run("train")
    assert (code, shown) == (2, "")
    assert 'pip install "dip-env[train]"' in error


def test_an_unexpected_error_is_one_line_that_says_where_its_traceback_is(run, monkeypatch):
    from dip_agents.cli import scenes

    def breaks(resolved):
        raise RuntimeError("a wheel\ncame off")

    monkeypatch.setattr(scenes, "run", breaks)
    code, shown, error = run("scenes")
    assert (code, shown) == (2, "")
    assert error.startswith("dip scenes: unexpected RuntimeError: a wheel came off (traceback in ")
    assert len(error.splitlines()) == 1
    path = Path(error.split("traceback in ")[1].split(";")[0])
    assert "in breaks" in path.read_text()
    path.unlink()
    monkeypatch.setenv(main_module.DEBUG, "1")
    with pytest.raises(RuntimeError, match="a wheel"):
        main_module.run(["scenes"])


def test_notes_on_an_error_are_printed_below_it(run, monkeypatch):
    from dip_agents.cli import scenes
    from dip_env.errors import SceneError

    def breaks(resolved):
        error = SceneError("a file is gone")
        error.add_note("the last checkpoint is step 3")
        raise error

    monkeypatch.setattr(scenes, "run", breaks)
    assert run("scenes")[2].splitlines() == [
        "dip scenes: a file is gone",
        "  the last checkpoint is step 3",
    ]


def test_the_module_runs_for_launchers():
    done = subprocess.run(
        [sys.executable, "-m", "dip_agents.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("dip-env")


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m dip_agents.cli help train | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert done.stdout == "usage: dip train [OPTIONS]\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [("rich", "evaluate", "cli"), ("docstring_parser", "train", "cli"), ("torch", "sft", "train")],
)
def test_a_missing_package_names_the_smallest_extra(run, monkeypatch, package, command, extra):
    from dip_agents.cli.commands import Command

    def breaks(self):
        raise ModuleNotFoundError("gone", name=f"{package}.part")

    monkeypatch.setattr(Command, "load", breaks)
    assert f'"dip-env[{extra}]"' in run(command)[2]


def test_the_slow_import_is_announced_once_for_all_processes(monkeypatch):
    from rich.console import Console

    from dip_agents.cli.output import say_libraries_load

    def shown():
        console = Console(file=io.StringIO())
        say_libraries_load(console)
        return console.file.getvalue()

    monkeypatch.setitem(sys.modules, "torch", sys)
    assert shown() == ""
    monkeypatch.delitem(sys.modules, "torch")
    assert shown() == "loading torch ...\n"
    monkeypatch.setenv("RANK", "1")
    assert shown() == ""
