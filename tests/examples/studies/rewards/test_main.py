"""The whole study in small: killed in the middle, gone on with, finished, and asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dip_agents.runtime.logger import read_metrics

ROOT = Path(__file__).parents[4]
SMALL = (
    "--quick", "--only", "core", "--presets", "easy", "--train-preset", "easy", "--n", "2",
    "--steps", "16", "--scenes-per-step", "1", "--group-size", "2", "--max-new-tokens", "6",
    "--token-budget", "200", "--measured-new-tokens", "6", "--measured-token-budget", "200",
)  # fmt: skip

pytest.importorskip("matplotlib")


@pytest.fixture
def command(tmp_path, micro_folder):
    return [
        sys.executable,
        "-m",
        "examples.studies.rewards",
        *SMALL,
        "--out",
        str(tmp_path),
        "--model",
        str(micro_folder),
    ]


@pytest.fixture
def offline():
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def finished(command, offline):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=offline)
    # Random weights find nobody, whatever they learn.
    assert done.returncode == 1, done.stdout + done.stderr
    assert "grpo is not ahead of all of base, sft_random_looks, grpo_no_look_reward" in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_study_goes_on_and_repeats_nothing(command, offline, tmp_path):
    study = subprocess.Popen(command, cwd=ROOT, env=offline, stdout=subprocess.PIPE, text=True)
    metrics: list[Path] = []
    while not any(len(read_metrics(path)) for path in metrics):
        assert study.poll() is None
        time.sleep(0.1)
        metrics = list(tmp_path.glob("train-grpo-*/metrics.jsonl"))
    os.kill(study.pid, signal.SIGKILL)
    before = study.communicate()[0]
    assert "begins: train-grpo-seed0" in before

    out = finished(command, offline)
    assert out.count("begins: train-grpo-seed0") == 1
    assert "7 of 7 runs" in out
    assert [row["step"] for row in read_metrics(metrics[0])] == list(range(1, 17))
    report = (tmp_path / "RESULTS_quick.md").read_text()
    assert "## 1. What training does" in report and "Not finished" not in report
    assert not list(tmp_path.glob("*/checkpoints"))

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/done.json")}
    assert len(stamps) == 7
    assert "begins" not in finished(command, offline)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/done.json")} == stamps


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "all"), "only: expected some of core,rewards,domains"),
        (("--photos", "nowhere"), "photos: expected a folder with a COCO json"),
        (("--model", "tiny-untrained"), "model: expected a trained model, got tiny-untrained"),
    ],
)
def test_wrong_choices_end_with_one_line(load, words, said, tmp_path, micro_folder, capsys):
    try:
        code = load("__main__").main(["--model", str(micro_folder), "--out", str(tmp_path), *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    # tyro draws a box around what it says, and breaks its lines.
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in text
