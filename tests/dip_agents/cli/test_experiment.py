from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib")


def test_an_experiment_writes_its_table_and_its_plot(run, tmp_path):
    words = ["--policy", "grid", "--scenes", "toy", "--split", "train", "--n", 3]
    code, shown, error = run("experiment", "look-budget", *words, "--out", tmp_path)
    assert code == 0, error
    table = (tmp_path / "experiment.md").read_text()
    names = [line.split(" |")[0][2:] for line in table.split("\n\n")[1].splitlines()[2:]]
    assert "no looks" in names
    lines = shown.splitlines()
    assert all(sum(line.startswith(f"  {name}  ") for line in lines) == 1 for name in names)
    at = next(k for k, line in enumerate(lines) if line.startswith("F1, 3 scenes"))
    assert max(map(len, lines[at : at + 1 + len(names)])) <= 80
    assert str(tmp_path / "experiment.md") in shown
    report = json.loads((tmp_path / "experiment.json").read_text())
    assert report["experiment"] == "look-budget"
    assert (report["n"], report["reference"]) == (3, "own looks")
    assert (tmp_path / "experiment.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


def test_an_unknown_kind_is_refused_with_a_suggestion(run):
    code, _, error = run("experiment", "look-budge")
    assert code == 2
    assert "did you mean 'look-budget'?" in error


def test_a_folder_that_cannot_be_written_is_said_before_a_model_is_loaded(
    run, tmp_path, monkeypatch
):
    from dip_agents.models import loading

    monkeypatch.setattr(loading, "load_model", None)
    (tmp_path / "file").write_text("")
    code, _, error = run("experiment", "--n", 1, "--out", tmp_path / "file")
    assert code == 2
    assert error.startswith("dip experiment: --out: expected a folder that can be written, got")
