"""What finished runs found outlives their folder."""

import json

import pytest


@pytest.fixture
def archive(load):
    return load("archive")


@pytest.fixture
def job(load):
    def make(variant, needs=None):
        return load("plan").Job("train", variant, 0, "toy", {"of": variant}, needs)

    return make


def finish(out, job, **files):
    folder = out / job.folder
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "done.json").write_text(json.dumps({"seconds": 1.0}))
    (folder / "log.txt").write_text("step 1")
    for name, text in files.items():
        (folder / f"{name}.jsonl").write_text(text)


def test_finished_runs_come_back_without_their_weights(archive, job, tmp_path):
    done, begun = job("a"), job("b")
    finish(tmp_path / "out", done, metrics='{"step": 1}\n')
    (tmp_path / "out" / begun.folder).mkdir()
    kept = tmp_path / "runs.tar.xz"
    assert archive.pack([done, begun], tmp_path / "out", kept) == 1
    assert archive.unpack(kept, tmp_path / "new") == 1
    assert archive.unpack(kept, tmp_path / "new") == 0
    (folder,) = (tmp_path / "new").iterdir()
    assert folder.name == done.folder
    assert {path.name for path in folder.iterdir()} == {"done.json", "metrics.jsonl"}
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_the_runs_of_another_plan_stay_and_the_same_runs_make_the_same_bytes(
    archive, job, tmp_path
):
    first, second = job("a"), job("b")
    kept, again = tmp_path / "runs.tar.xz", tmp_path / "again.tar.xz"
    finish(tmp_path / "one", first, metrics="1")
    finish(tmp_path / "two", second)
    archive.pack([first], tmp_path / "one", kept)
    assert archive.pack([second], tmp_path / "two", kept) == 2
    finish(tmp_path / "three", second)
    finish(tmp_path / "three", first, metrics="1")
    assert archive.pack([second, first], tmp_path / "three", again) == 2
    assert kept.read_bytes() == again.read_bytes()


def test_without_an_archive_nothing_is_known(archive, tmp_path):
    assert archive.unpack(tmp_path / "runs.tar.xz", tmp_path / "out") == 0
    assert not (tmp_path / "out").exists()


def test_a_training_is_repeated_only_where_its_model_is_needed(load, job, tmp_path):
    runs = load("runs")
    trained = job("a")
    measured, other = job("b", needs=trained), job("c", needs=trained)
    for one in (trained, measured):
        finish(tmp_path, one)
    said = []
    runs._repeat_models([trained, measured, other], tmp_path, said.append)
    assert runs.finished(tmp_path, trained)
    (tmp_path / trained.folder / "model" / "config.json").unlink()
    (tmp_path / trained.folder / "model").rmdir()
    runs._repeat_models([trained, measured], tmp_path, said.append)
    assert runs.finished(tmp_path, trained)
    assert said == []
    runs._repeat_models([trained, measured, other], tmp_path, said.append)
    assert not (tmp_path / trained.folder).exists()
    assert said == [f"again, since its model is needed: {trained.folder}"]


def test_a_plan_takes_its_own_runs_only(archive, job, tmp_path):
    first, second = job("a"), job("b")
    kept = tmp_path / "runs.tar.xz"
    for one in (first, second):
        finish(tmp_path / "out", one)
    archive.pack([first, second], tmp_path / "out", kept)
    assert archive.unpack(kept, tmp_path / "new", [second, job("c")]) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == [second.folder]
