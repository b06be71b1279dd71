"""What stable-baselines3 demands of an environment, and its algorithms on it."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest

import dip_env  # noqa: F401
from dip_wrappers.glimpse import BoxLooks, Glimpse, GridLooks, ObservationSizes, SimulatedDetector

sb3 = pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")

MAPS = ("looked", "found", "doubt", "budget")
SMALL = ObservationSizes(maps=4)


def make(looks=None, keys=MAPS, sizes=SMALL, **changes):
    env = gym.make(
        "DIPCrowd-v0", scenes="toy", view_size=96, crop_size=64, max_looks=2, max_turns=4,
        disable_env_checker=True,
    )  # fmt: skip
    return Glimpse(env, SimulatedDetector(), looks, keys=keys, sizes=sizes, **changes)


@pytest.mark.parametrize(
    "looks", [GridLooks((2,)), GridLooks((2, 3), at_once=2), BoxLooks()], ids=str
)
def test_its_own_checker_finds_nothing_wrong(looks):
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It would rather have maps as vectors; its extractor of features makes them so by itself.
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")
        # Squares have their positions in [0, 1], and SAC scales its own actions.
        warnings.filterwarnings("ignore", message=".*symmetric.*")
        check_env(make(looks), warn=True)
        sizes = ObservationSizes(image=40, crop=40, maps=4)
        check_env(make(looks, keys=("image", "crop", *MAPS), sizes=sizes))
        if isinstance(looks, GridLooks):
            check_env(make(looks, keys=("cells", "budget")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "looks", "options"),
    [
        ("PPO", GridLooks((2,)), {"n_steps": 32, "batch_size": 16}),
        ("PPO", GridLooks((2,), at_once=2), {"n_steps": 32, "batch_size": 16}),
        ("DQN", GridLooks((2,)), {"learning_starts": 16, "buffer_size": 200}),
        ("SAC", BoxLooks(), {"learning_starts": 16, "buffer_size": 200}),
    ],
)
def test_its_algorithms_learn_and_play_on(name, looks, options):
    env = make(looks, shaping=1.0)
    model = getattr(sb3, name)("MultiInputPolicy", env, seed=0, device="cpu", **options)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    after = list(model.policy.parameters())
    assert any(not a.equal(b.detach()) for a, b in zip(before, after, strict=True))
    observation, _ = env.reset(seed=3)
    done, steps = False, 0
    while not done:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, done, _, _ = env.step(action)
        steps += 1
    assert steps <= 2  # as many as there are looks
