from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from dip_agents.models.loading import load_model
from dip_agents.models.rules import rules_of
from dip_agents.models.weights import fingerprint
from dip_agents.runtime.interrupts import StopRequestedError
from dip_agents.runtime.logger import read_metrics
from dip_env.errors import ConfigError

SMALL = {
    "steps": 3, "scenes_per_step": 1, "group_size": 6, "n": 2, "looking_n": 2, "seeds": (0,),
    "presets": ("toy",), "train_preset": "toy", "max_new_tokens": 6, "token_budget": 200,
    "measured_new_tokens": 6, "measured_token_budget": 200, "watch_n": 1, "watch_interval": 1,
}  # fmt: skip


@pytest.fixture
def small(load, tmp_path, micro_folder, monkeypatch):
    """Choices and plan of a study that starts from random weights."""
    for name in ("FIRST_SCENE", "FIRST_WATCHED", "FIRST_MEASURED"):  # there are few toy scenes
        monkeypatch.setattr(load("plan"), name, 0)
    study = load("config").Study(out=tmp_path / "out", model=str(micro_folder), **SMALL)
    weights = load_model(str(micro_folder), device="cpu").vlm.model.state_dict()
    start = load("plan").Start(fingerprint(weights), rules_of(str(micro_folder)))
    return study, load("plan").plan(study, start)


@pytest.fixture
def prepared(small):
    """Return a function that writes a run's job and returns the folder."""
    study, jobs = small

    def make(kind, variant, out=None, **changes):
        job = next(j for j in jobs if (j.kind, j.variant) == (kind, variant))
        folder = (out or study.out) / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "setting": {**job.setting, **changes},
            "needs": job.needs and job.needs.folder,
            "model": study.model, "device": "cpu", "photos": None, "command": "c",
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(record))
        return folder

    return make


def test_a_model_is_trained_further_and_measured(load, prepared):
    worker = load("worker")
    few = {"preset": "toy", "first": 0, "count": 4}  # it would have a scene for each demonstration
    trained = prepared("train", "sft_random_looks", scenes=few)
    worker.do(trained)
    assert len(read_metrics(trained / "metrics.jsonl")) == 3
    assert not (trained / "checkpoints").exists()
    done = json.loads((trained / "done.json").read_text())
    assert done["seconds"] > 0 and done["command"] == "c" and "torch" in done["versions"]
    weights = load_file(trained / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.bfloat16"}

    folder = prepared("measure", "sft_random_looks")
    worker.do(folder)
    measured = load("measure.answers").Measured.load(folder)
    assert measured.indices == (0, 1)
    assert all(1 <= len(texts) <= 2 for texts in measured.actions)


def test_a_stopped_run_goes_on_to_the_same_weights(load, prepared, monkeypatch, tmp_path):
    worker = load("worker")
    evaluate_model = worker.evaluate_model
    whole = prepared("train", "grpo", tmp_path / "whole")
    worker.do(whole)

    calls = []

    def stop_in_the_second_step(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_model(*arguments, **options)

    folder = prepared("train", "grpo")
    monkeypatch.setattr(worker, "evaluate_model", stop_in_the_second_step)
    with pytest.raises(StopRequestedError, match="go on from there"):
        worker.do(folder)
    assert not (folder / "done.json").exists()
    monkeypatch.setattr(worker, "evaluate_model", evaluate_model)
    worker.do(folder)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all("eval/looks_per_episode" in row for row in rows)
    weights, expected = (load_file(run / "model" / "model.safetensors") for run in (folder, whole))
    assert all(weights[name].equal(expected[name]) for name in expected)
    assert not (folder / "checkpoints").exists()


def test_the_consensus_of_samples_is_measured_beside_single_ones(load, prepared):
    folder = prepared("agreement", "base")
    load("worker").do(folder)
    found = load("measure.agreement").load_agreement(folder)
    assert found["single"].keys() == {"F1", "precision", "recall"}
    assert found["consensus"].keys() == found["single"].keys() | {"AP", "MR", "JI"}
    assert 0 <= found["consensus"]["F1"].value <= 1


def test_looking_is_measured_under_every_control(load, prepared):
    folder = prepared("looking", "base")
    load("worker").do(folder)
    controls = load("measure.looking").load_looking(folder)
    assert {"own looks", "no looks", "oracle looks at tiles", "first region only"} <= set(controls)
    for columns in controls.values():
        assert {"tp", "covered", "ambiguous"} <= set(columns)
        assert len(columns["episodes"]) == 2
    assert (folder / "looks.png").is_file()


def test_other_weights_than_those_of_the_setting_are_refused(load, prepared):
    folder = prepared("measure", "base", start=1)
    with pytest.raises(ConfigError, match=r"expected weights 1, got -?\d+ of model"):
        load("worker").do(folder)


def test_a_folder_is_for_one_process(load, tmp_path, monkeypatch):
    worker = load("worker")
    monkeypatch.setattr(worker, "PATIENCE", 0.3)
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(ConfigError, match="another process works on it"),
            worker._alone(tmp_path),
        ):
            pass
        threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with worker._alone(tmp_path):
            assert (tmp_path / "lock").is_file()


def test_time_adds_up_over_processes_that_were_killed(load, tmp_path):
    clock = load("worker").Clock
    (tmp_path / "seconds.txt").write_text("100.0\n")
    assert 100 <= clock(tmp_path).seconds() < 110


def test_a_worker_leaves_when_its_parent_is_gone(load, monkeypatch):
    worker, sent = load("worker"), []
    monkeypatch.setattr(worker.os, "kill", lambda pid, number: sent.append((pid, number)))
    worker._leave_with_parent(-1)  # nobody's parent
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_rules_come_back_from_a_setting(load, small):
    _, jobs = small
    job = next(j for j in jobs if j.variant == "grpo_prior_look")
    rules = load("worker").read_rules(json.loads(json.dumps(job.setting["rules"])))
    assert rules.reward.ambiguity == "annotation"
    assert replace(rules, reward=rules.reward) == rules


def test_photographs_are_read_from_their_folder(load, write_coco):
    row = {"id": 5, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40]}
    root = write_coco([row | {"area": 1200, "iscrowd": 0}])
    photos, indices = load("worker").held_out_scenes({"photos": "key"}, str(root))
    assert indices == range(1)
    assert [len(photos), photos[0].boxes.tolist()] == [1, [[1.0, 2.0, 31.0, 42.0]]]
    run = load("__main__")
    key = run.photos_of(root)
    assert run.photos_of(None) is None and key == run.photos_of(root)
    (root / "annotations.json").write_text("{}")
    assert run.photos_of(root) != key
