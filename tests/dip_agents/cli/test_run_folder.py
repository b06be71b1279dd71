from __future__ import annotations

import errno
import json

import pytest

from dip_agents.cli import run_folder
from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.run_folder import free_folder, read_record, recorded, try_folder
from dip_agents.cli.settings import resolve
from dip_agents.runtime.errors import StorageError
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


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 200_000], ids=["cut", "list", "deep"])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: expected"):
        read_record(tmp_path)
    assert json.dumps(read_record(tmp_path / "nowhere")) == "{}"


@pytest.mark.parametrize("name", ["x" * 300, "/proc/x", "\0"])
def test_a_folder_that_no_system_can_make_is_one_short_line(tmp_path, name):
    with pytest.raises(
        ConfigError, match="out: expected a folder that can be written, got"
    ) as told:
        try_folder(tmp_path / name)
    assert len(str(told.value)) < 400


def test_a_full_disk_is_said_with_where_to_go_on_and_the_record_does_not_hide_it(
    tmp_path, resolved, monkeypatch
):
    def full(path, text):
        if read_record(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    write = run_folder._write
    monkeypatch.setattr(run_folder, "_write", full)
    with (
        pytest.raises(StorageError, match="cannot be written: No space left on device") as told,
        recorded(tmp_path, "audit", resolved),
    ):
        error = OSError(errno.ENOSPC, "No space left on device")
        error.add_note("the last complete checkpoint is c")
        raise error
    assert str(told.value).startswith(str(tmp_path))
    first, second = told.value.__notes__
    assert first == "the last complete checkpoint is c"
    assert second == f"{tmp_path / 'run.json'} cannot be written either: No space left on device"


def test_files_elsewhere_that_cannot_be_read_are_not_blamed_on_the_folder(tmp_path, resolved):
    with pytest.raises(FileNotFoundError), recorded(tmp_path / "out", "audit", resolved):
        (tmp_path / "image.png").read_bytes()
    with (
        pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written: Is a directory"),
        recorded(tmp_path / "out", "audit", resolved),
    ):
        (tmp_path / "out" / "metrics.jsonl").mkdir()
        (tmp_path / "out" / "metrics.jsonl").open("a")
