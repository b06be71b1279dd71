from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

# Notes when it began and ended, sleeps or fails as the setting says.
WORKER = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
assert int(sys.argv[2]) == os.getppid()
setting = json.loads((folder / "job.json").read_text())["setting"]
with (folder / "times.txt").open("a") as file:
    file.write(f"{time.time()}\\n")
    file.flush()
    time.sleep(setting.get("sleep", 0))
    if setting.get("fail"):
        sys.exit("it broke")
    file.write(f"{time.time()}\\n")
(folder / "threads.txt").write_text(os.environ["OMP_NUM_THREADS"])
(folder / "done.json").write_text(json.dumps({"seconds": 1.0}))
"""


@pytest.fixture
def runs(load, tmp_path, monkeypatch):
    module = load("runs")
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(module, "WORKER", (str(worker),))
    return module


@pytest.fixture
def ways(runs, tmp_path):
    return runs.Ways(tmp_path / "out", "tiny", "cpu", None, "python run.py", threads=3)


@pytest.fixture
def job(load):
    def make(variant, needs=None, **setting):
        return load("plan").Job("train", variant, 0, "toy", setting, needs)

    return make


def times(ways, one):
    return [float(t) for t in (ways.out / one.folder / "times.txt").read_text().split()]


def test_every_run_is_done_once_after_the_one_it_needs(runs, ways, job):
    first = job("a", sleep=0.3)
    jobs = [first, job("b", needs=first), job("c", needs=first)]
    said = []
    assert runs.play(jobs, ways, said.append) == []
    assert all(runs.finished(ways.out, one) for one in jobs)
    assert times(ways, first)[1] < min(times(ways, one)[0] for one in jobs[1:])
    assert (ways.out / first.folder / "threads.txt").read_text() == "3"
    assert json.loads((ways.out / first.folder / "job.json").read_text())["command"] == (
        "python run.py"
    )
    assert sum(line.startswith("begins") for line in said) == 3

    again = []
    assert runs.play(jobs, ways, again.append) == []
    assert again == ["3 of 3 runs are finished already"]
    assert all(len(times(ways, one)) == 2 for one in jobs)


def test_no_more_runs_than_asked_for_go_side_by_side(runs, ways, job):
    jobs = [job(name, sleep=0.4) for name in "abcde"]
    assert runs.play(jobs, ways, lambda line: None) == []
    moments = [(t, 1 - 2 * k) for one in jobs for k, t in enumerate(times(ways, one))]
    at_once, most = 0, 0
    for _, change in sorted(moments):
        at_once += change
        most = max(most, at_once)
    assert most == 2


def test_a_failed_run_stops_those_that_need_it_and_no_other(runs, ways, job):
    broken = job("broken", fail=True)
    jobs = [broken, job("after", needs=broken), job("other")]
    said = []
    left = runs.play(jobs, ways, said.append)
    assert left == jobs[:2]
    assert runs.finished(ways.out, jobs[2])
    assert any(line.endswith("FAILED: it broke") for line in said)
    assert not (ways.out / jobs[1].folder).exists()


def test_stopping_ends_all_runs_and_the_next_call_goes_on(runs, ways, job):
    jobs = [job("a", sleep=30), job("b", sleep=30), job("c")]

    def stop():
        began = [ways.out / one.folder / "times.txt" for one in jobs[:2]]
        while not all(path.is_file() and path.stat().st_size for path in began):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runs.play(jobs, ways, lambda line: None)
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGTERM) == before
    assert not any(runs.finished(ways.out, one) for one in jobs)
    quick = [replace(one, setting={}) for one in jobs]  # other settings: other folders
    assert runs.play(quick, ways, lambda line: None) == []
    assert all(runs.finished(ways.out, one) for one in quick)


def test_a_file_is_written_whole_or_not_at_all(runs, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    runs.write_whole(path, "old")

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        runs.write_whole(path, "new")
    assert path.read_text() == "old"
