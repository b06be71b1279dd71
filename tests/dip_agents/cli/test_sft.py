from __future__ import annotations

import json

import pytest

from dip_agents.cli.sft import TINY_SFT, read_part


def test_the_tiny_recipe_is_the_default_of_the_tiny_model(settings, folder):
    assert settings("sft").sft == TINY_SFT
    assert settings("sft").policy.model == "tiny-untrained"
    assert settings("sft", "--model", folder).sft == TINY_SFT


def test_a_mix_of_presets_is_drawn_once_and_may_change_where_a_run_was_stopped(
    run, folder, tmp_path
):
    words = ["--model", folder, "--steps", 2, "--batch-size", 2, "--workers", 0, "--views", 1]
    words += ["--mix", "easy=3", "crowd", "--n", 4, "--decay-steps", 0]
    words += ["--warmup-steps", 0, "--dtype", "float32"]
    words += ["--store", tmp_path / "drawn", "--out", tmp_path / "run"]
    code, _, error = run("sft", *words, "--stop-at", 1)
    assert code == 0, error
    assert sorted(part.name for part in (tmp_path / "drawn").iterdir()) == ["crowd", "easy"]
    code, _, error = run("sft", "--resume", "--mix", "easy=1", "--out", tmp_path / "run")
    assert code == 0, error
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]
    code, _, error = run("sft", "--resume", "--learning-rate", 1, "--out", tmp_path / "run")
    assert code == 2
    assert "--learning-rate: 0.003 there, 1.0 here" in error


def test_a_part_of_a_mix_has_weight_1_by_default():
    assert read_part("crowd") == ("crowd", 1.0)
    assert read_part("crowd=2.5") == ("crowd", 2.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "easy=much"], "--mix: expected name=weight, got 'easy=much'"),
        (
            ["--mix", "easy=1", "crowd=-1"],
            "--mix: expected a finite weight above 0, got 'crowd=-1'",
        ),
        (["--n", 0], "--n: expected at least 1, got 0"),
        (["--workers", -1], "--workers: expected at least 0, got -1"),
        (["--smallest-window", 2], "--smallest-window: expected a share in (0, 1], got 2.0"),
        (["--lora-rank", -1], "--lora-rank: expected at least 0, got -1"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, words, message):
    code, shown, error = run("sft", *words)
    assert (code, shown) == (2, "")
    assert error == f"dip sft: {message}\n"


@pytest.mark.parametrize("option", ["out", "store"])
def test_a_folder_that_cannot_be_written_is_said_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, option
):
    from dip_agents.models import loading

    monkeypatch.setattr(loading, "load_model", None)
    (tmp_path / "file").write_text("")
    folders = {"out": tmp_path / "run", option: tmp_path / "file"}
    words = [word for name, folder in folders.items() for word in (f"--{name}", folder)]
    code, _, error = run("sft", *words)
    assert code == 2
    assert f"dip sft: --{option}: expected a folder that can be written, got" in error
