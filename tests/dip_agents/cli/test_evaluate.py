from __future__ import annotations

import json
import subprocess
import sys

import pytest

ORACLE = ("evaluate", "--policy", "oracle", "--n", 2)


def test_evaluation_writes_its_files(run, tmp_path):
    out = tmp_path / "eval"
    code, shown, _ = run(*ORACLE, "--out", out)
    assert code == 0
    assert "oracle on easy, 2 scenes" in shown and "F1" in shown and str(out) in shown
    metrics = json.loads((out / "metrics.json").read_text())
    expected = "precision recall F1 reward format look accuracy looks_per_episode boxes_per_truth"
    assert set(expected.split()) | {"parse_failures", "n", "intervals"} <= set(metrics)
    assert metrics["n"] == 2
    assert metrics["F1"] > 0.95
    assert json.loads((out / "truth.json").read_text())["images"]
    about = metrics["about"]
    assert (about["policy"], about["model"], about["scenes"]) == ("oracle", None, "easy")
    assert about["split"] == "val" and "easy" in about["source"] and "numpy" in about["versions"]
    record = json.loads((out / "run.json").read_text())
    assert record["headline"]["F1"] == metrics["F1"]


def test_what_the_looks_cover_is_said_beside_random_and_oracle_looks(run, tmp_path):
    words = ("evaluate", "--policy", "oracle", "--scenes", "crowd", "--n", 2)
    code, shown, _ = run(*words, "--out", tmp_path)
    assert code == 0
    named = {"people worth a look inside its looks", "same looks at random places", "oracle looks"}
    found = {name: line for name in named for line in shown.splitlines() if name in line}
    assert set(found) == named and all(" % [" in line for line in found.values())
    headline = json.loads((tmp_path / "run.json").read_text())["headline"]
    covered = headline["look_coverage"]
    assert f" {100 * covered:.0f} %" in found["people worth a look inside its looks"]
    assert covered > headline["look_coverage_random"]
    shown = run(*words, "--max-looks", 0)[1]
    assert not any(name in shown for name in named)


def test_a_second_evaluation_in_the_same_folder_is_refused_or_replaces_the_first(run, tmp_path):
    out = tmp_path / "eval"
    assert run(*ORACLE, "--out", out)[0] == 0
    kept = (out / "metrics.json").read_text()
    other = ("evaluate", "--policy", "grid", "--n", 3, "--out", out)
    code, _, error = run(*other)
    assert code == 2
    assert error.startswith("dip evaluate: --out: expected a folder without an evaluation")
    assert (out / "metrics.json").read_text() == kept
    assert run(*other, "--overwrite")[0] == 0
    assert json.loads((out / "metrics.json").read_text())["n"] == 3
    traces = [path.read_text() for path in (out / "traces").glob("*.jsonl")]
    assert len(traces) and "easy" in (out / "config.toml").read_text()
    assert sum(len(text.splitlines()) for text in traces) < 30  # nothing of the first is left


def test_overwriting_removes_an_evaluation_only_once_another_can_begin(run, tmp_path):
    out = tmp_path / "eval"
    assert run(*ORACLE, "--out", out)[0] == 0
    mine = [out / name for name in ("notes.txt", "traces/mine.txt", "traces/images/mine.jpg")]
    for path in mine:
        path.write_text("mine")
    kept = (out / "metrics.json").read_text()
    words = ("evaluate", "--model", "nowhere", "--out", out, "--overwrite")
    assert run(*words)[0] == 2
    assert run(*ORACLE, "--root", "/nowhere", "--out", out, "--overwrite")[0] == 2
    if not torch_cuda():
        assert run("evaluate", "--device", "cuda", "--out", out, "--overwrite")[0] == 2
    assert (out / "metrics.json").read_text() == kept
    assert run(*ORACLE, "--n", 1, "--out", out, "--overwrite")[0] == 0
    assert json.loads((out / "metrics.json").read_text())["n"] == 1
    assert [path.name for path in (out / "traces").glob("*.jsonl")] == ["turns-0000.jsonl"]
    assert [path.read_text() for path in mine] == ["mine"] * 3


def torch_cuda():
    import torch

    return torch.cuda.is_available()


def test_one_json_object_stands_alone_on_standard_output(run):
    code, shown, error = run(*ORACLE, "--json")
    assert code == 0
    assert json.loads(shown)["n"] == 2
    assert "measuring oracle" in error


def test_samples_give_boxes_scores_that_dip_score_reads(run, tmp_path):
    words = ("evaluate", "--policy", "oracle", "--miss-rate", "0.4", "--n", 3, "--samples", 5)
    code, shown, _ = run(*words, "--out", tmp_path, "--json")
    assert code == 0
    found = json.loads(shown)["consensus"]
    assert found["samples"] == 5
    # Each person is missed by two of five: what half of them hold is better than one answer.
    assert found["F1"] > json.loads(shown)["F1"]
    files = (tmp_path / "truth.json", tmp_path / "consensus.json")
    code, shown, _ = run("score", *files, "--protocol", "crowdhuman")
    assert code == 0
    assert json.loads(shown)["AP"] == pytest.approx(found["AP"])
    scores = {round(row["score"], 9) for row in json.loads(files[1].read_text())}
    assert scores <= {0.2, 0.4, 0.6, 0.8, 1.0} and len(scores) > 1
    code, shown, _ = run(*words)
    assert "consensus of 5 samples" in shown and "MR^-2" in shown


def test_every_metric_is_printed_on_request(run):
    assert "count_mae" not in run(*ORACLE)[1]
    assert "count_mae" in run(*ORACLE, "--verbose")[1]


def test_lines_fit_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(*ORACLE, "--verbose")[1]
    assert max(map(len, shown.splitlines())) <= 80
    assert "1.000 [1.000, 1.000]" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "0"], "--n: expected at least 1, got 0"),
        (["--group-size", "0"], "--group-size: expected at least 1, got 0"),
        (["--samples", "0"], "--samples: expected at least 1, got 0"),
        (["--samples", "8"], "--samples: expected 1 with greedy decoding, got 8"),
        (["--samples", "8", "--group-size", "4"], "--samples: expected the group_size or 1, got 8"),
        (["--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["--temperature", "inf"], "--temperature: expected a finite number, got 'inf'"),
        (["--out", ""], "--out: expected a path, got ''"),
        (["--out", "/dev/null/x", "--policy", "grid"], "--out: expected a folder that can be"),
        (["--scenes", "nowhere"], "--scenes: expected one of easy"),
        (["--model", "nowhere"], "--model: expected tiny"),
        (["--scenes", "coco", "--root", "/nowhere"], "/nowhere: expected the folder"),
        (["--max-looks", "-1"], "--max-looks: expected an integer >= 0, got -1"),
        (["--engine", "vllm", "--sleep", "2"], "--sleep: expected 0 or 1 with evaluate, got 2"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, words, message):
    code, shown, error = run("evaluate", *words)
    assert (code, shown) == (2, "")
    assert error.startswith(f"dip evaluate: {message}")
    assert len(error.strip().splitlines()) == 1


def test_a_server_alone_gets_the_whole_prompt_and_its_odd_turns_are_told_of(run, server, tmp_path):
    def answer(body):
        if len(server.bodies) == 2:
            return 200, b"{"
        return server.said("1 person.</think><answer>[]</answer>", "length")

    server.answer = answer
    words = ("--engine", "openai", "--server", server.address, "--server-model", "big")
    play = ("--n", "3", "--scenes", "toy", "--out", tmp_path / "e", "--concurrency", "1")
    code, shown, error = run("evaluate", *words, *play)
    assert code == 0, error
    first = server.bodies[0]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("big", 2048, 0.0)
    parts = first["messages"][0]["content"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    assert "<answer>[[x1,y1,x2,y2],...]</answer>" in text and "person" in text
    assert "big on toy, 3 scenes" in shown
    assert "75 % of all turns were truncated" in shown
    assert "1 of 4 turns failed: " in shown and "expected a JSON object, got '{'" in shown
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert found["parse_failures"] == 1 / 3
    assert list(found["failures"].values()) == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "none"], "--model: expected one with engine native, got none"),
        (["--engine", "openai"], "--engine: expected openai, a server and a server_model together"),
    ],
)
def test_a_model_that_is_nowhere_is_refused(run, words, message):
    code, _, error = run("evaluate", *words)
    assert code == 2 and message in error


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--policy", "oracle", "--n", "1"),
        ("evaluate", "--policy", "random", "--n", "1"),
        ("audit", "--n", "1"),
        ("train", "--steps", "none"),
        ("train", "--help"),
    ],
)
def test_what_plays_no_model_loads_no_torch(words):
    script = (
        "import sys\n"
        "from dip_agents.cli.main import run\n"
        "run(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)


@pytest.mark.parametrize("out", ["/proc/x", "file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_written_is_said_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, out
):
    from dip_agents.models import loading

    monkeypatch.setattr(loading, "load_model", None)
    (tmp_path / "file").write_text("")
    code, _, error = run("evaluate", "--n", 1, "--out", tmp_path / out)
    assert code == 2
    assert error.startswith("dip evaluate: --out: expected a folder that can be written, got")
    assert len(error.splitlines()) == 1
