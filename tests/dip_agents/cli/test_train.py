from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.settings import resolve
from dip_agents.cli.train_run import TrainingRun
from dip_agents.cli.train_settings import TINY_GRPO
from dip_agents.runtime.checkpoints import MANIFEST
from dip_agents.runtime.distributed import DistributedContext
from dip_env.errors import ConfigError

RECIPES = Path(__file__).parents[3] / "examples" / "recipes"


def rows_of(out):
    return [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]


def test_defaults_are_those_of_the_named_model(settings, folder, minimal_prompt_rules):
    assert settings("train").grpo == TINY_GRPO
    # Where the bundled model has something to learn; random weights begin with the easy.
    assert settings("train").source.scenes == "far"
    assert settings("train", "--model", "tiny-untrained").source.scenes == "easy"
    # Random weights have yet to learn to see.
    assert settings("train").policy.freeze_vision
    assert not settings("train", "--model", "tiny-untrained").policy.freeze_vision
    assert settings("train", "--scenes", "drone").source.scenes == "drone"
    assert settings("train", "--model", folder).rules == minimal_prompt_rules
    assert settings("train", f"--model={folder}", "--max-looks", 2).rules.max_looks == 2
    assert settings("train").rules.reward.ambiguity == "siblings"
    asked = settings("train", "--ambiguity", "annotation", "--max-looks", 0).rules
    assert (asked.reward.ambiguity, asked.max_looks) == ("annotation", 0)
    assert settings("train", "--sampling-temperature", 0.7).grpo.temperature == 0.7


def test_training_writes_everything_it_promises(run, small, tmp_path):
    out = tmp_path / "run"
    words = [*small, "--eval-interval", 2, "--out", out]
    code, shown, error = run("train", *words)
    assert (code, error) == (0, "")
    assert "easy, 2 held-out scenes" in shown and "change [95 % CI]" in shown
    assert str(out / "model") in shown
    result = json.loads((out / "result.json").read_text())
    assert set(result) == {"before", "after", "paired_gain"}
    assert result["paired_gain"]["reward"].keys() >= {"value", "low", "high"}
    first, second = rows_of(out)
    assert not [name for name in first if name.startswith("eval/")]
    # The last step's weights are those that are measured at the end, with the same seeds.
    assert second["eval/reward"] == result["after"]["reward"]
    assert second["eval/recall"] == result["after"]["recall"]
    for name in ("model/model.safetensors", "model/dip_env.json", "before/metrics.json"):
        assert (out / name).is_file(), name
    for name in ("tensorboard", "completions", "traces/step_000001", "checkpoints"):
        assert any((out / name).iterdir()), name
    record = json.loads((out / "run.json").read_text())
    assert (record["command"], record["state"]) == ("train", "finished")
    assert record["headline"]["F1"]["after"] == result["after"]["F1"]
    assert record["sessions"][0]["versions"].keys() >= {"torch", "pillow", "dip-env"}
    # A second run must not write over the first.
    code, _, error = run("train", *words)
    assert code == 2
    assert "--resume" in error


def test_what_training_did_to_the_looks_is_said_kept_and_drawn(run, small, tmp_path):
    words = [*small, "--scenes", "crowd", "--out", tmp_path]
    code, shown, error = run("train", *words)
    assert code == 0, error
    (own,) = (line for line in shown.splitlines() if "people worth a look" in line)
    (oracle,) = (line for line in shown.splitlines() if "oracle looks" in line)
    assert "points [" in own and "random places" in shown
    headline = json.loads((tmp_path / "run.json").read_text())["headline"]
    covered, best = headline["look_coverage"], headline["look_coverage_oracle"]
    assert f" {100 * covered['before']:.0f} %" in own and best["before"] == best["after"] > 0
    assert f" {100 * best['after']:.0f} %" in oracle
    assert (
        max(map(len, shown.split("held-out scenes")[1].split("model, logs")[0].splitlines())) < 81
    )
    picture = tmp_path / "looks.png"
    assert f"its looks, before and after: {picture}" in shown
    drawn = picture.read_bytes()
    picture.unlink()
    # A finished run that is resumed is measured again.
    code, shown, _ = run("train", "--resume", "--out", tmp_path)
    assert code == 0 and str(picture) in shown and picture.read_bytes() == drawn


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--max-looks", 0), None), (("--n", 0), None), (("--scenes", "toy"), "holds 3 people or")],
)
def test_where_there_are_no_looks_to_draw_there_is_no_picture(
    run, small, tmp_path, monkeypatch, words, said
):
    monkeypatch.setattr("dip_agents.evaluation.before_after.MIN_PEOPLE", 4)
    code, shown, error = run("train", *small, "--steps", 1, *words, "--out", tmp_path)
    assert code == 0, error
    assert not (tmp_path / "looks.png").exists() and "looks.png" not in shown
    assert ("no picture of its looks" in shown) == (said is not None)
    assert said is None or said in shown


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_trains_under_the_settings_that_it_names(run, small, tmp_path, recipe):
    code, _, error = run("train", "--config", recipe, *small, "--out", tmp_path)
    assert code == 0, error
    used = tomllib.loads((tmp_path / "config.toml").read_text())
    named = tomllib.loads(recipe.read_text())
    assert len(named) > 5 and used.items() >= named.items()
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]


def test_a_run_is_repeated_by_its_own_settings(run, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", *small, "--n", 0, "--look-weight", 0.2)[0] == 0
    saved = tomllib.loads((tmp_path / "runs/train/config.toml").read_text())
    assert (saved["look_weight"], saved["group_size"], saved["steps"]) == (0.2, 3, 2)
    code, shown, error = run("train", "--config", "runs/train/config.toml")
    assert code == 0, error
    assert "runs/train-2" in shown  # a folder of its own, where none is named
    timed = ("time/", "memory/")
    first, second = (
        [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows_of(out)]
        for out in (tmp_path / "runs/train", tmp_path / "runs/train-2")
    )
    assert first == second


def test_a_resumed_run_takes_its_settings_from_the_folder(run, small, tmp_path):
    out = tmp_path / "run"
    assert run("train", *small, "--n", 0, "--look-weight", 0.3, "--out", out)[0] == 0
    code, _, error = run("train", "--resume", "--steps", 3, "--out", out)
    assert code == 0, error
    assert [row["step"] for row in rows_of(out)] == [1, 2, 3]
    saved = tomllib.loads((out / "config.toml").read_text())
    assert (saved["look_weight"], saved["steps"]) == (0.3, 3)
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert [session["state"] for session in sessions] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenes", "night"], "--scenes: 'easy' there, 'night' here"),
        (["--look-weight", 0.5, "--iou", "0.9"], "--look-weight: 0.1 there, 0.5 here; --iou:"),
        (["--max-looks", 0], "--max-looks: 1 there, 0 here"),
        (["--model", "tiny"], "--model:"),
        (["--lora-rank", 4], "--lora-rank: 0 there, 4 here"),
        (["--seed", 1], "--seed: 0 there, 1 here"),
    ],
)
def test_a_resume_under_another_task_is_refused_by_name(run, small, tmp_path, words, message):
    out = tmp_path / "run"
    kept = resolve(COMMANDS["train"].load().Settings, "train", [str(word) for word in small])
    from dip_agents.cli.run_folder import recorded

    with recorded(out, "train", kept):
        pass
    before = (out / "config.toml").read_text()
    code, shown, error = run("train", "--resume", *words, "--out", out)
    assert (code, shown) == (2, "")
    assert message in error
    assert (out / "config.toml").read_text() == before


def test_several_seeds_are_several_runs_and_one_table(run, small, tmp_path):
    out = tmp_path / "run"
    code, shown, error = run("train", *small, "--steps", 1, "--seeds", 0, 3, "--out", out, "--json")
    assert code == 0, error
    printed = json.loads(shown)  # one object, though there are several runs
    assert printed["seeds"] == {"before": 2, "after": 2}
    assert json.loads((out / "seeds.json").read_text()) == printed
    for seed in (0, 3):
        saved = tomllib.loads((out / f"seed_{seed}" / "config.toml").read_text())
        assert saved["seed"] == seed
    code, shown, _ = run("compare", out)
    assert code == 0 and "before (2 seeds)" in shown and "after (2 seeds)" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "--model: expected tiny"),
        (["--lora-rank", "-1"], "--lora-rank: expected at least 0, got -1"),
        (["--group-size", "1"], "--group-size: expected at least 2, got 1"),
        (["--scenes", "toy"], "--scenes-per-step: expected at most the 4 scenes there are, got 8"),
        (["--source-arg"], "--source-arg: expected at least one value, got none"),
        (["--engine", "openai"], "--engine: expected native or vllm, whose weights can learn"),
        (["--engine", "vllm", "--sleep", "2"], "--sleep: expected 0 or 1 with n above 0, got 2"),
        (
            ["--engine", "vllm", "--sleep", "2", "--n", "0", "--answers-per-look", "4"],
            "--sleep: expected 0 or 1 with answers_per_look above 1, got 2",
        ),
        (
            ["--answers-per-look", "3"],
            "--answers-per-look: expected a divisor of group_size 8 that leaves two looks",
        ),
        (
            ["--blank-answers", "1"],
            "--blank-answers: expected 0 to 0 with answers_per_look 1, got 1",
        ),
        (["--sleep", "1"], "--sleep: expected 0 unless engine is vllm, got 1 with engine native"),
        (["--eval-interval", "2", "--n", "0"], "--eval-interval: expected 0 with n 0, got 2"),
        (["--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["--workers", "-1"], "--workers: expected at least 0, got -1"),
        (["--demonstrations", "-1"], "--demonstrations: expected at least 0, got -1"),
        (["--eval-temperature", "-1"], "--eval-temperature: expected at least 0, got -1.0"),
        (["--beta", "1e200"], "--beta: expected a number from 0.001 to 1000, got 1e+200"),
        (["--view-size", "1000000"], "--view-size: expected an integer <= 16384, got 1000000"),
        (["--seeds", "0", "-1"], "--seeds: expected at least 0, got -1"),
        (["--seeds", "1", "1"], "--seeds: expected different numbers"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_measured(run, tmp_path, words, message):
    code, shown, error = run("train", *words, "--out", tmp_path / "run")
    assert (code, shown) == (2, "")
    assert error.startswith(f"dip train: {message}")
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_set_without_a_held_out_part_trains_unmeasured(run, folder, write_coco, tmp_path):
    root = write_coco([{"image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 40]}])
    (root / "annotations").mkdir()
    (root / "annotations.json").rename(root / "annotations" / "instances_train.json")
    words = ["train", "--model", folder, "--scenes", "coco", "--root", root, "--steps", 1]
    words += ["--scenes-per-step", 1, "--group-size", 3, "--max-new-tokens", 8]
    words += ["--dtype", "float32", "--out", tmp_path / "run"]
    code, _, error = run(*words)
    assert code == 2
    assert "split 'val', found instances_train.json" in error
    code, shown, _ = run(*words, "--n", 0)
    assert code == 0
    assert "before" not in shown
    assert (tmp_path / "run" / "model").is_dir()


def test_a_second_run_in_the_same_folder_is_refused_before_it_measures_anything(run, tmp_path):
    step = tmp_path / "checkpoints" / "step_000001"
    step.mkdir(parents=True)
    (step / MANIFEST).write_text("{}")
    code, _, error = run("train", "--n", 2, "--out", tmp_path)
    assert code == 2
    assert "expected an empty folder for a new run" in error and "--resume" in error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_checkpoints_without_settings_are_not_resumed(run, tmp_path):
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    code, _, error = run("train", "--resume", "--out", tmp_path)
    assert code == 2
    assert "config.toml: expected the settings of the run to go on with" in error


def test_a_run_of_a_version_without_a_setting_is_not_resumed_under_its_default(run, tmp_path):
    _, written, _ = run("config", "train")
    lines = [line for line in written.splitlines(keepends=True) if "freeze_vision" not in line]
    assert len(lines) < len(written.splitlines())
    (tmp_path / "config.toml").write_text("".join(lines))
    code, _, error = run("train", "--resume", "--out", tmp_path)
    assert code == 2
    assert "config.toml: expected a value for freeze_vision, got none" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "vllm"], "engine: expected native with several processes, got vllm"),
        (["--model", "tiny-untrained"], "demonstrations: expected 0 with several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(words, message, tmp_path):
    words = [*words, "--device", "cpu", "--out", str(tmp_path)]
    resolved = resolve(COMMANDS["train"].load().Settings, "train", words)
    for index in range(2):
        with pytest.raises(ConfigError, match=message):
            TrainingRun(resolved, DistributedContext(index, 2), Console(quiet=True)).check()


def test_several_seeds_are_resumed_under_their_own_settings(run, small, tmp_path):
    out = tmp_path / "run"
    words = [*small, "--steps", 1, "--look-weight", 0.3, "--n", 0, "--out", out]
    code, shown, error = run("train", *words, "--seeds", 3, "--json")
    assert code == 0, error
    assert json.loads(shown) == {"out": str(out), "seeds": [3]}
    kept = (out / "seed_3" / "config.toml").read_text()
    # Also a seed that has not begun takes the settings of the others.
    code, shown, error = run("train", "--resume", "--seeds", 3, 4, "--steps", 2, "--out", out)
    assert code == 0, error
    for seed in (3, 4):
        saved = (out / f"seed_{seed}" / "config.toml").read_text()
        assert saved == kept.replace("steps = 1", "steps = 2", 1).replace(
            "seed = 3", f"seed = {seed}"
        )
        assert [row["step"] for row in rows_of(out / f"seed_{seed}")] == [1, 2]
    code, _, error = run("train", "--resume", "--seeds", 3, 4, "--scenes", "night", "--out", out)
    assert code == 2 and "--scenes: 'easy' there, 'night' here" in error
    code, _, error = run("train", "--resume", "--out", out)
    assert code == 2 and "expected --seeds 3 4, for each of which" in error
    assert not (out / "config.toml").exists()


def test_a_resume_says_where_it_goes_on_and_refuses_to_go_back(run, small, tmp_path):
    out = tmp_path / "the run"
    code, shown, _ = run("train", *small, "--out", out, "--resume")
    assert code == 0
    assert f"no checkpoint in {out} yet" in shown
    assert f"dip evaluate --model '{out / 'model'}'" in shown
    code, shown, _ = run("train", "--resume", "--out", out)
    assert code == 0
    assert "all 2 steps are done already" in shown
    for name in ("before", "after"):  # no traces of the earlier session are mixed in
        assert [p.name for p in (out / name / "traces").glob("*.jsonl")] == ["turns-0000.jsonl"]
    kept = (out / "config.toml").read_text()
    code, _, error = run("train", "--resume", "--steps", 1, "--out", out)
    assert (code, error) == (
        2,
        "dip train: --steps: expected at least the 2 that are done, got 1\n",
    )
    assert (out / "config.toml").read_text() == kept


def test_a_run_with_a_damaged_newest_checkpoint_goes_on_from_an_older_one(run, small, tmp_path):
    words = [*small, "--n", 0, "--checkpoint-interval", 1, "--completions-interval", 1]
    assert run("train", *words, "--out", tmp_path)[0] == 0
    weights = tmp_path / "checkpoints" / "step_000002" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    code, _, error = run("train", "--resume", "--out", tmp_path)
    assert code == 2
    first, second = error.splitlines()
    assert first.startswith(f"dip train: {weights}: expected") and "truncated?" in first
    assert "step_000001 is whole: go on from there with --resume-from" in second
    stale = tmp_path / "traces" / "step_000002" / "stale"
    stale.write_text("")
    code, shown, _ = run("train", "--resume-from", 1, "--out", tmp_path)
    assert code == 0 and "going on after step 1, from " in shown
    assert not stale.exists()  # what a lost step left is not mixed with what it does again
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]
    again = tmp_path / "checkpoints" / "step_000002-2" / "weights.safetensors"
    assert again.read_bytes() == whole
    code, _, error = run("train", "--resume-from", 7, "--out", tmp_path)
    assert code == 2
    assert error.startswith("dip train: --resume-from: expected a step or folder of a checkpoint")


def test_the_length_of_a_run_whose_rate_falls_cannot_be_changed(run, small, tmp_path):
    from dip_agents.cli.run_folder import recorded

    words = [*map(str, small), "--lr-schedule", "cosine"]
    with recorded(tmp_path, "train", resolve(COMMANDS["train"].load().Settings, "train", words)):
        pass
    code, _, error = run("train", "--resume", "--steps", 3, "--out", tmp_path)
    assert code == 2
    assert "--steps: 2 there, 3 here" in error


def test_an_interrupted_run_is_one_line_and_stopped(run, small, tmp_path, monkeypatch):
    import signal

    from dip_agents.runtime.logger import RunLogger

    monkeypatch.setattr(RunLogger, "completions", lambda *_: signal.raise_signal(signal.SIGINT))
    code, _, error = run("train", *small, "--n", 0, "--out", tmp_path)
    assert code == 130
    assert len(error.splitlines()) == 1
    assert error.startswith("dip train: stopped by SIGINT at step 1")
    assert error.endswith("step_000001: go on from there with --resume\n")
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "stopped"
    monkeypatch.undo()
    assert run("train", "--resume", "--out", tmp_path)[0] == 0
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]


def test_a_source_without_parts_is_named_where_training_scenes_are_measured(run, small, tmp_path):
    shown = run("train", *small, "--scenes", "toy", "--out", tmp_path)[1]
    assert "toy has no val split: measuring on training scenes" in shown
