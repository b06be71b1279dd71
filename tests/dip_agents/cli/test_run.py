import json

import pytest
from rich.console import Console

from dip_agents.cli.parsing import parse
from dip_agents.cli.run import _train_on
from dip_agents.models.loading import save_model
from dip_agents.runtime.checkpoints import MANIFEST
from dip_agents.runtime.distributed import DistributedContext
from dip_env.errors import ConfigError


@pytest.fixture
def folder(fresh_micro, minimal_prompt_rules, tmp_path):
    return save_model(fresh_micro(), tmp_path / "model", minimal_prompt_rules)


def test_training_writes_everything_it_promises(run, folder, tmp_path):
    out = tmp_path / "run"
    words = ["--model", folder, "--steps", 2, "--scenes-per-step", 2, "--group-size", 3]
    words += ["--eval-scenes", 2, "--max-new-tokens", 16, "--out", out, "--dtype", "float32"]
    words += ["--eval-interval", 2]
    code, shown, _ = run("train", *words)
    assert code == 0
    assert "reward gain" in shown
    result = json.loads((out / "result.json").read_text())
    assert set(result) == {"before", "after", "paired_gain"}
    assert result["paired_gain"]["reward"].keys() >= {"value", "low", "high"}
    first, second = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert not [name for name in first if name.startswith("eval/")]
    # The last step's weights are those that are measured at the end, with the same seeds.
    assert second["eval/reward"] == result["after"]["reward"]
    assert second["eval/recall"] == result["after"]["recall"]
    for name in ("model/model.safetensors", "model/dip_env.json", "before/metrics.json"):
        assert (out / name).is_file(), name
    for name in ("tensorboard", "completions", "traces/step_000001", "checkpoints"):
        assert any((out / name).iterdir()), name
    # A second run must not write over the first.
    code, _, error = run("train", *words)
    assert code == 2
    assert "resume" in error


def test_a_mix_of_presets_is_taught_from_scenes_drawn_once(run, folder, tmp_path):
    words = ["--model", folder, "--steps", 2, "--batch-size", 2, "--workers", 0, "--views", 1]
    words += ["--mix", "easy=3", "crowd", "--scene-count", 4, "--decay-steps", 0]
    words += ["--warmup-steps", 0, "--dtype", "float32"]
    words += ["--store", tmp_path / "drawn", "--out", tmp_path / "run"]
    code, _, error = run("sft", *words, "--stop-at", 1)
    assert code == 0, error
    assert sorted(part.name for part in (tmp_path / "drawn").iterdir()) == ["crowd", "easy"]
    code, _, error = run("sft", *words, "--resume")
    assert code == 0, error
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


def test_evaluation_writes_its_files(run, tmp_path):
    out = tmp_path / "eval"
    code, shown, _ = run("evaluate", "--policy", "oracle", "--n", 2, "--out", out)
    assert code == 0
    assert "F1" in shown
    metrics = json.loads((out / "metrics.json").read_text())
    expected = "precision recall F1 reward format look accuracy looks_per_episode boxes_per_truth"
    assert set(expected.split()) | {"parse_failures", "n", "intervals"} <= set(metrics)
    assert metrics["n"] == 2
    assert metrics["F1"] > 0.95
    assert json.loads((out / "truth.json").read_text())["images"]


def test_an_experiment_writes_its_table_and_its_plot(run, tmp_path):
    pytest.importorskip("matplotlib")
    words = ["--policy", "grid", "--scenes", "toy", "--split", "train", "--n", 3]
    code, shown, error = run("experiment", "look-budget", *words, "--out", tmp_path)
    assert code == 0, error
    assert "| no looks |" in shown
    assert (tmp_path / "experiment.md").read_text() in shown
    report = json.loads((tmp_path / "experiment.json").read_text())
    assert (report["experiment"], report["n"], report["reference"]) == (
        "look-budget",
        3,
        "own looks",
    )
    assert (tmp_path / "experiment.png").stat().st_size > 10_000


def test_an_audit_that_an_adversary_wins_exits_with_1(run):
    code, shown, _ = run("audit", "--n", 4, "--look-weight", 1)
    assert code == 1
    assert "look" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--scenes", "nowhere"], "scenes: expected one of easy"),
        (["sft", "--mix", "easy=much"], "mix: expected name=weight, got 'easy=much'"),
        (
            ["sft", "--mix", "easy=1", "crowd=-1"],
            "mix: expected a finite weight above 0, got 'crowd=-1'",
        ),
        (["evaluate", "--model", "nowhere"], "model: expected tiny"),
        (
            ["evaluate", "--scenes", "coco", "--root", "/nowhere"],
            "/nowhere: expected the folder",
        ),
        (["train", "--lora-rank", "-1"], "lora_rank: expected a number >= 0, got -1"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, words, message):
    code, shown, error = run(*words)
    assert code == 2
    assert message in error
    assert shown == ""
    assert len(error.strip().splitlines()) == 1


def test_a_setting_out_of_range_is_named(run):
    code, shown, error = run("evaluate", "--max-looks", "-1")
    assert (code, shown) == (2, "")
    assert "max_looks: expected an integer >= 0, got -1" in " ".join(error.split())


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
    code, shown, _ = run(*words, "--eval-scenes", 0)
    assert code == 0
    assert "before" not in shown
    assert (tmp_path / "run" / "model").is_dir()


def test_a_second_run_in_the_same_folder_is_refused_before_it_measures_anything(run, tmp_path):
    step = tmp_path / "checkpoints" / "step_000001"
    step.mkdir(parents=True)
    (step / MANIFEST).write_text("{}")
    code, _, error = run("train", "--scenes", "toy", "--eval-scenes", 2, "--out", tmp_path)
    assert code == 2
    assert "expected an empty folder for a new run" in error and "--resume" in error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "openai"], "engine: expected native or vllm, whose weights can learn"),
        (["--engine", "vllm", "--sleep", "2"], "sleep: expected 0 or 1 with eval_scenes, got 2"),
        (["--sleep", "1"], "sleep: expected 0 unless engine is vllm, got 1 with engine native"),
        (
            ["--eval-interval", "2", "--eval-scenes", "0"],
            "eval_interval: expected 0 with eval_scenes 0, got 2",
        ),
    ],
)
def test_engines_that_cannot_do_it_are_refused_before_anything_is_loaded(run, words, message):
    code, _, error = run("train", *words)
    assert code == 2
    assert message in " ".join(error.replace("│", " ").split())


def test_an_engine_that_forgets_its_weights_is_not_evaluated(run):
    code, _, error = run("evaluate", "--engine", "vllm", "--sleep", 2)
    assert code == 2
    assert "sleep: expected 0 or 1 with evaluate, got 2, which forgets the weights" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "vllm"], "engine: expected native with several processes, got vllm"),
        (["--model", "tiny-untrained"], "demonstrations: expected 0 with several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(words, message, tmp_path):
    args = parse(["train", *words, "--device", "cpu", "--out", str(tmp_path)])
    for index in range(2):
        with pytest.raises(ConfigError, match=message):
            _train_on(DistributedContext(index, 2), args, Console(quiet=True))
