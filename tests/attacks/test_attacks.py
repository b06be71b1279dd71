"""A slice of the attacks on actions and run files, and how attacks are found and told."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest


def load(name):
    # Tests do not import each other, so modules are loaded from their paths.
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tests.attacks.{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickle looks classes up by their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runner():
    return load("__main__")


@pytest.mark.parametrize(("name", "tries"), [("actions", 90), ("run_files", 120)])
def test_nothing_but_results_and_errors_of_the_library_come_of_attacks(name, tries):
    found = load(name).attack(np.random.default_rng(0), tries)
    assert [failure for _, failures in found.values() for failure in failures] == []
    assert sum(count for count, _ in found.values()) == tries


def test_an_attack_on_run_files_can_fail(monkeypatch):
    run_files = load("run_files")

    def broken(folder):
        raise KeyError("crc32")

    monkeypatch.setattr(run_files, "read_record", broken)
    found = run_files.attack(np.random.default_rng(0), 6)
    assert all("KeyError: 'crc32'" in failures[0] for _, failures in found.values())


def test_an_attack_on_actions_can_fail(monkeypatch):
    actions = load("actions")
    monkeypatch.setattr(actions, "SECONDS", -1.0)
    found = actions.attack(np.random.default_rng(0), 3)
    assert all("a call took" in failures[0] for _, failures in found.values())


def test_attacks_are_played_in_turn_with_numbers_of_their_own(runner, monkeypatch):
    monkeypatch.setattr(runner, "TRIES", 3)
    drawn = {"a": [], "b": []}

    def attack(name):
        def play(rng, tries):
            drawn[name].append(int(rng.integers(10**9)))
            return {"kind": (tries, ["no"] if name == "b" and len(drawn["b"]) == 2 else [])}

        return play

    clock = iter([0.0, 1.0, 2.0, 9.0])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    found = runner.play({"a": attack("a"), "b": attack("b")}, 5.0, seed=1)
    assert found == {"a: kind": (6, []), "b: kind": (6, ["seed 1, turn 1: no"])}
    numbers = [*drawn["a"], *drawn["b"]]
    assert len(set(numbers)) == 4
    lines = runner.table(found).splitlines()
    assert lines[0].split() == ["kind", "tries", "failures"]
    assert lines[3].split() == ["all", "12", "1"]
    assert lines[-1] == "  seed 1, turn 1: no"


def test_the_exit_code_says_whether_something_failed(runner, monkeypatch, capsys):
    outcomes = {"good": [], "bad": ["no"]}
    attacks = {name: lambda rng, n, f=f: {"k": (n, f)} for name, f in outcomes.items()}
    monkeypatch.setattr(runner, "find_attacks", lambda: (attacks, {}))
    assert runner.main(["--minutes", "0", "--kinds", "good"]) == 0
    assert runner.main(["--minutes", "0"]) == 1
    assert "bad: k" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        runner.main(["--kinds", "other"])


def test_the_attacks_of_this_package_are_found(runner):
    found, left_out = runner.find_attacks()
    assert {"actions", "run_files"} <= set(found)
    assert {"openenv_messages"} == {*found, *left_out} & {"openenv_messages"}


def test_an_attack_is_left_out_with_a_line_where_what_it_needs_is_not_installed(
    runner, monkeypatch, capsys
):
    find_spec = importlib.util.find_spec
    missing = {"openenv": None}
    monkeypatch.setattr(
        runner.importlib.util, "find_spec", lambda name: missing.get(name, True) and find_spec(name)
    )
    monkeypatch.setattr(runner, "play", lambda attacks, seconds, seed: {"k": (len(attacks), [])})
    assert "openenv_messages" not in runner.find_attacks()[0]
    assert runner.main(["--minutes", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "openenv_messages: left out, openenv is not installed"
