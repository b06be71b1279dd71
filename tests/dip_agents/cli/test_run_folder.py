from __future__ import annotations

import json

import pytest

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.run_folder import free_folder, read_record, recorded
from dip_agents.cli.settings import resolve
from dip_agents.runtime.interrupts import StopRequestedError
from dip_env.errors import ConfigError


@pytest.fixture
def resolved():
    return resolve(COMMANDS["audit"].load().Settings, "audit", ["--n", "3"])


def test_a_run_that_fails_keeps_why(tmp_path, resolved):
    with pytest.raises(ZeroDivisionError), recorded(tmp_path, "audit", resolved):
        _ = 1 / 0
    record = read_record(tmp_path)
    assert record["state"] == "failed"
    assert record["sessions"][0]["error"] == "ZeroDivisionError: division by zero"
    assert record["sessions"][0]["command"] == "dip audit --n 3"


def test_an_interrupted_run_is_stopped(tmp_path, resolved):
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, "audit", resolved):
        raise KeyboardInterrupt
    assert read_record(tmp_path)["state"] == "stopped"
    with pytest.raises(StopRequestedError), recorded(tmp_path, "audit", resolved):
        raise StopRequestedError("stopped by SIGTERM")
    assert read_record(tmp_path)["state"] == "stopped"


def test_while_a_run_goes_on_its_record_says_so(tmp_path, resolved):
    with recorded(tmp_path, "audit", resolved) as record:
        record.headline = {"F1": 0.5}
        assert read_record(tmp_path)["state"] == "running"
    assert read_record(tmp_path)["headline"] == {"F1": 0.5}


def test_processes_but_the_first_write_nothing(tmp_path, resolved):
    with recorded(tmp_path / "x", "audit", resolved, write=False):
        pass
    assert not (tmp_path / "x").exists()


def test_a_free_folder_is_the_one_asked_for_or_has_a_number(tmp_path):
    out = tmp_path / "train"
    assert free_folder(out) == out
    for name in ("train", "train-2"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    assert free_folder(out) == tmp_path / "train-3"


def test_a_killed_session_does_not_stay_running(tmp_path, resolved):
    text = '{"sessions": [{"state": "running"}, {"state": "stopped"}]}'
    (tmp_path / "run.json").write_text(text)
    with recorded(tmp_path, "audit", resolved):
        pass
    states = [session["state"] for session in read_record(tmp_path)["sessions"]]
    assert states == ["failed", "stopped", "finished"]


def test_two_processes_do_not_write_to_one_folder(tmp_path, resolved):
    with recorded(tmp_path, "audit", resolved):
        kept = (tmp_path / "config.toml").read_text()
        with (
            pytest.raises(ConfigError, match=r"^out: expected a folder of its own, got .* running"),
            recorded(tmp_path, "audit", resolved),
        ):
            pass
        assert read_record(tmp_path)["state"] == "running"
        assert (tmp_path / "config.toml").read_text() == kept
    with recorded(tmp_path, "audit", resolved):  # the lock ends with the run
        pass


@pytest.mark.parametrize("below", ["", "x"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, resolved, below):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"^out: expected a folder that can be written, got"),
        recorded(tmp_path / "file" / below, "audit", resolved),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: expected"):
        read_record(tmp_path)
    assert json.dumps(read_record(tmp_path / "nowhere")) == "{}"
