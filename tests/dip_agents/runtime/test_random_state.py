"""Random numbers go on where they stopped, also through a file."""

import random

import numpy as np
import pytest
import torch

from dip_agents.runtime.random_state import rng_state, seed_everything, set_rng_state


def draw():
    return random.gauss(0, 1), np.random.normal(), torch.randn(2).tolist(), random.random()


def test_all_generators_go_on_after_a_round_trip_through_a_file(tmp_path):
    seed_everything(3)
    draw()  # leaves a second gaussian waiting in python's and numpy's generators
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    seed_everything(4)
    assert draw() != expected[0]
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_seeding_fixes_all_generators_and_takes_large_seeds():
    seed_everything(2**40 + 1)
    first = draw()
    seed_everything(2**40 + 1)
    assert draw() == first


def test_a_state_with_a_gpu_is_refused_without_one_before_anything_changes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    other = rng_state() | {"cuda": [torch.get_rng_state()]}
    before = rng_state()["python"]
    with pytest.raises(ValueError, match="expected a CUDA device, got none"):
        set_rng_state(other)
    assert rng_state()["python"] == before
