"""A slice of the attacks on model folders and servers; more tries by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def attacks():
    # Tests do not import each other, so the module is loaded from its path.
    spec = importlib.util.spec_from_file_location(
        "models_attack", Path(__file__).parent / "models.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_folders_and_odd_replies_end_in_a_result_or_one_error(attacks, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = attacks.attack(np.random.default_rng(0), 4)
    assert [failure for _, failures in found.values() for failure in failures] == []
    assert {tries for tries, _ in found.values()} == {4} and len(found) == 11


def test_the_attack_can_fail(attacks, monkeypatch):
    def broken(folder):
        raise KeyError("x")

    monkeypatch.setattr(attacks, "_load", broken)
    monkeypatch.setattr(attacks, "REPLIES", {})
    found = attacks.attack(np.random.default_rng(0), 1)
    assert all("KeyError" in failures[0] for _, failures in found.values())
