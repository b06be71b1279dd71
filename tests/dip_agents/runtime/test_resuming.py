"""What a checkpoint holds is checked before a run takes it over."""

from pathlib import Path

import pytest
import torch

from dip_agents.runtime.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from dip_agents.runtime.errors import CheckpointError
from dip_agents.runtime.random_state import rng_state
from dip_agents.runtime.resuming import (
    check_fits,
    check_weights,
    reading_state,
    where_to_go_on,
)


def checkpoint(**changes):
    values = {"path": Path("step_000001"), "step": 1, "weights": {}, "optimizer": {}}
    return Checkpoint(**{**values, "rng": rng_state(), "config": {}, "extra": {}, **changes})


@pytest.mark.parametrize(
    "damage",
    [
        {"python": None},
        {"python": (3, (1, 2), None)},
        {"numpy": ("MT19937", [1], 0, 0, 0.0)},
        {"numpy": ("MT19937", [-1] * 624, 0, 0, 0.0)},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": "x"},
        {"cuda": None},
    ],
)
def test_a_random_state_that_cannot_be_restored_is_refused_and_changes_nothing(damage):
    before = rng_state()
    with pytest.raises(CheckpointError, match="step_000001: random state: expected one of"):
        check_fits(checkpoint(rng={**rng_state(), **damage}), {})
    after = rng_state()
    assert (after["python"], after["numpy"]) == (before["python"], before["numpy"])
    assert torch.equal(after["torch"], before["torch"])
    check_fits(checkpoint(), {})


def test_a_state_that_does_not_fit_is_one_error():
    found = checkpoint()
    with (
        pytest.raises(CheckpointError, match=r"step_000001/state.pt: expected the state of this"),
        reading_state(found),
    ):
        found.extra["token_limit"]
    with pytest.raises(KeyboardInterrupt), reading_state(found):
        raise KeyboardInterrupt


def test_where_to_go_on_names_the_newest_checkpoint(tmp_path):
    assert where_to_go_on(None) == where_to_go_on(tmp_path) == "there is no checkpoint yet"
    folder = save_checkpoint(tmp_path, 3, {"w": torch.zeros(1)}, {}, {})
    assert where_to_go_on(tmp_path).startswith(f"the last complete checkpoint is {folder}: go on")
    assert load_checkpoint(folder).step == 3
    (tmp_path / "latest").write_text("x")
    assert f"{folder} is whole" in where_to_go_on(tmp_path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "expected tensor 'w', got none"),
        ({"w": torch.zeros(3)}, r"expected 'w' of shape \(2,\), got \(3,\)"),
        ({"w": torch.zeros(2), "v": torch.zeros(2)}, "expected no tensor 'v'"),
    ],
)
def test_weights_of_another_model_are_named(weights, message):
    with pytest.raises(CheckpointError, match=message):
        check_weights(weights, {"w": torch.zeros(2)})
    check_weights({"w": torch.ones(2)}, {"w": torch.zeros(2)})
