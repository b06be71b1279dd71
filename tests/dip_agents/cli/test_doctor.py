from __future__ import annotations

import json

import pytest

from dip_agents.cli import doctor


def test_a_sound_installation_has_no_cross(run, monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_GIB", 0.0)  # what is free here is another question
    monkeypatch.setattr(doctor, "DISK_GIB", 0.0)
    monkeypatch.setattr(doctor, "_shared_memory", lambda: doctor.Check("/dev/shm", None, "skipped"))
    code, shown, error = run("doctor", "--json")
    report = json.loads(shown)
    found = {check["name"]: check for check in report["checks"]}
    assert (code, report["ok"], error) == (0, True, ""), found
    assert found["episode"]["found"].endswith("recorded and replayed")
    assert found["scene"]["ok"] and found["model"]["ok"]
    assert {"packages", "memory", "disk", "device", "extras"} <= found.keys()


def test_a_cross_names_the_remedy_and_exits_with_1(run, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GIB", 1e9)
    monkeypatch.setattr(doctor, "checks", lambda: iter([doctor._disk()]))
    code, shown, _ = run("doctor")
    assert code == 1
    cross, remedy = shown.splitlines()
    assert cross.startswith("X   disk") and remedy.strip() == "make room, or use --out"


def test_whatever_breaks_is_a_cross_and_no_traceback():
    def breaks():
        raise OSError("no such\ndevice")

    check = doctor._guarded("device", breaks, "plug it in")
    assert (check.ok, check.found, check.remedy) == (False, "OSError: no such", "plug it in")


def test_a_version_out_of_range_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=99", "nowhere-to-be-found>=1"])
    check = doctor._packages()
    assert check.ok is False
    assert "nowhere-to-be-found is missing" in check.found and "expected >=99" in check.found


def test_versions_that_differ_from_the_tested_set_are_reported(monkeypatch, tmp_path):
    (tmp_path / "lock").write_text("# tested\nnumpy==0.1\n")
    monkeypatch.setattr(doctor, "LOCK", tmp_path / "lock")
    assert "(tested 0.1)" in doctor._tested().found


@pytest.mark.parametrize("text", ["MemAvailable:   1048576 kB\n"])
def test_memory_is_read_in_gib(monkeypatch, text):
    monkeypatch.setattr(doctor, "_meminfo", lambda: {"MemAvailable": 1.0})
    assert doctor._memory().ok is False
