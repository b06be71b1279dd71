from __future__ import annotations

import csv
import io
import json

import pytest


@pytest.fixture
def runs(run, tmp_path):
    folders = []
    for name, words in {"good": [], "poor": ["--miss-rate", 0.5]}.items():
        folders.append(tmp_path / name)
        words = ["--policy", "oracle", "--scenes", "toy", "--split", "train", "--n", 4, *words]
        assert run("evaluate", *words, "--out", folders[-1])[0] == 0
    return folders


def test_runs_stand_beside_each_other_in_pairs(run, runs):
    code, shown, error = run("compare", *runs, "--metrics", "F1", "recall")
    assert (code, error) == (0, "")
    head, *rows = shown.splitlines()
    assert head.startswith("4 scenes") and f"change to {runs[0]}" in head
    assert [row for row in rows if not row.startswith(" ")] == ["F1", "recall"]
    assert sum("-0." in row for row in rows) == 2


def test_the_same_numbers_come_as_csv_markdown_and_json(run, runs):
    found = json.loads(run("compare", *runs, "--format", "json")[1])
    poor = found["metrics"][str(runs[1])]["recall"]
    change = found["differences"][str(runs[1])]["recall"]["value"]
    assert change == pytest.approx(poor["value"] - 1.0)
    rows = list(csv.DictReader(io.StringIO(run("compare", *runs, "--format", "csv")[1])))
    (row,) = (r for r in rows if r["metric"] == "recall" and r["run"] == str(runs[1]))
    assert (float(row["value"]), float(row["change"])) == (poor["value"], change)
    shown = run("compare", *runs, "--format", "markdown", "--metrics", "recall")[1]
    assert f"| {runs[1]} - {runs[0]} | {change:+.3f} [" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}"], "--runs: expected at least two, or one of dip train"),
        (["{0}", "{0}"], "--runs: expected different folders"),
        (["{0}", "nowhere"], "--runs: expected the folder of a run, got nowhere, which is missing"),
        (["{0}", "{0}/run.json"], "run.json, which is no folder"),
        (["{0}", "."], "metrics.json: expected a file of an evaluation"),
        (["{0}", "{1}", "--metrics", "f1"], "--metrics: expected all, or some of precision"),
    ],
)
def test_what_cannot_be_compared_is_one_line(run, runs, words, message, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, shown, error = run("compare", *(word.format(*runs) for word in words))
    assert (code, shown) == (2, "")
    assert message.replace("--runs", "RUNS") in error
    assert len(error.strip().splitlines()) == 1


def test_other_scenes_are_not_compared(run, runs, tmp_path):
    other = tmp_path / "other"
    words = ["--policy", "oracle", "--scenes", "toy", "--split", "train", "--n", 3, "--out", other]
    assert run("evaluate", *words)[0] == 0
    code, _, error = run("compare", runs[0], other)
    assert code == 2
    assert f"{other}: expected the same scenes as {runs[0]}" in error
