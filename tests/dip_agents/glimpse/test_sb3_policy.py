from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import dip_env  # noqa: F401 (registers DIPCrowd-v0)
from dip_agents.glimpse.baselines import RandomLooks, detection_scores, match_counts
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene
from dip_wrappers.glimpse import Detections, Glimpse, GridLooks, SimulatedDetector

sb3 = pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")

KEYS = ("cells", "budget")


def make(keys=KEYS, at_once=1):
    env = gym.make(
        "DIPCrowd-v0", scenes="toy", view_size=96, crop_size=64, max_looks=2, max_turns=4,
        disable_env_checker=True,
    )  # fmt: skip
    return Glimpse(env, SimulatedDetector(), GridLooks((2,), at_once=at_once), keys=keys)


def ppo(env, **policy):
    from dip_agents.glimpse.sb3_policy import CellPolicy

    return sb3.PPO(
        CellPolicy, env, n_steps=32, batch_size=16, seed=0, device="cpu", policy_kwargs=policy
    )


def logits(model, cells, budget=0.5):
    observation = {"cells": torch.tensor(cells)[None], "budget": torch.tensor([[budget]])}
    return model.policy.get_distribution(observation).distribution.logits[0].detach()


def test_cells_that_swap_what_is_known_of_them_swap_their_chances():
    model = ppo(make())
    cells = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    order = [2, 0, 3, 1]
    before, after = logits(model, cells), logits(model, cells[order])
    assert after[:4].numpy() == pytest.approx(before[order].numpy(), abs=1e-6)
    assert after[4].item() == pytest.approx(before[4].item(), abs=1e-6)
    assert len(set(before[:4].tolist())) == 4


def test_whether_to_answer_depends_on_what_is_left_to_see():
    model = ppo(make())
    empty, full = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)
    assert logits(model, empty)[4] != logits(model, full)[4]
    assert logits(model, full, 0.5)[4] != logits(model, full, 0.0)[4]


def test_it_learns_and_comes_back_from_a_file(tmp_path):
    env = make()
    model = ppo(env)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    after = list(model.policy.parameters())
    assert all(not a.equal(b.detach()) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model")
    again = sb3.PPO.load(tmp_path / "model", device="cpu")
    cells = np.random.default_rng(1).random((4, 3), dtype=np.float32)
    assert logits(again, cells).tolist() == logits(model, cells).tolist()
    again.set_env(env)
    again.learn(32)  # its optimizer knows the same parameters


class Gatherings:
    """Six small people in one quarter of each scene, which one is different from scene to scene."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        right, down = index % 2, index // 2 % 2
        corners = [[x + 320 * right, y + 320 * down] for x in (40, 120, 200) for y in (60, 180)]
        boxes = np.array([[x, y, x + 20, y + 50] for x, y in corners], np.float32)
        return Scene(
            scene_id=f"gathering-{index}", size=(640, 640), boxes=boxes, visible_boxes=boxes,
            visible_share=np.ones(6, np.float32), ignore=np.zeros(6, bool), labels=("person",) * 6,
            load_image=lambda: Image.new("RGB", (640, 640)),
        )  # fmt: skip


def near_or_far(picture):
    """Be sure of people from near and suspect them from afar."""
    boxes = picture.from_scene(picture.scene.truth.astype(np.float64))
    seen = ((boxes >= 0) & (boxes <= np.tile(picture.size, 2))).all(axis=1)
    return Detections(boxes[seen], np.full(seen.sum(), 0.9 if picture.scale[0] > 0.25 else 0.2))


@pytest.mark.slow
def test_ppo_learns_to_look_where_people_may_be():
    crowd = gym.make(
        "DIPCrowd-v0", scenes=Gatherings(), view_size=96, crop_size=128, max_looks=1, max_turns=3,
        format_weight=0.0, look_weight=0.0, accuracy_weight=1.0, disable_env_checker=True,
    )  # fmt: skip
    env = Glimpse(crowd, near_or_far, GridLooks((2,)), keys=KEYS)
    model = ppo(env)

    def f1(agent):
        return detection_scores(match_counts(agent, env, range(24)))["F1"].value

    before, chance = f1(model), f1(RandomLooks(env))
    assert before < 0.7 and chance < 0.5  # the right one of four, or an answer without a look
    model.learn(768)
    assert f1(model) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": ("found", "budget")}, "keys=.'cells', 'budget'.*, got Dict"),
        ({"at_once": 2}, r"action_space: expected Discrete\(5\), got MultiDiscrete"),
    ],
)
def test_other_spaces_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ppo(make(**settings))


def test_layers_between_scores_and_logits_are_refused():
    with pytest.raises(ConfigError, match=r"net_arch: expected no layers for the actor, .*\[64\]"):
        ppo(make(), net_arch=[64])
