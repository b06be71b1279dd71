from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from dip_env.errors import ConfigError, EpisodeOverError, SceneError
from dip_env.group import EpisodeGroup
from dip_env.vector_env import DIPCrowdVectorEnv

LOOK = "<think>t</think><look>[[28,66,84,227]]</look>"
EMPTY = "<answer>[]</answer>"
LEFT = [28.0, 66.67, 84.0, 226.67]
RIGHT = [350.0, 53.33, 420.0, 266.67]


def make(num_envs=6, group_size=3, **kwargs) -> gym.vector.VectorEnv:
    kwargs = {"scenes": "toy", **kwargs}
    return gym.make_vec("DIPCrowd-v0", num_envs=num_envs, group_size=group_size, **kwargs)


def answer(*boxes: list[float]) -> str:
    return f"<answer>{json.dumps(boxes)}</answer>"


def test_make_vec_finds_our_own_vector_environment():
    envs = make()
    assert isinstance(envs.unwrapped, DIPCrowdVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert isinstance(gym.make_vec("DIPCrowd-v0", num_envs=2, scenes="toy"), DIPCrowdVectorEnv)


def test_members_of_a_group_share_a_scene_and_groups_differ():
    envs = make(num_envs=12, group_size=3)
    observations, infos = envs.reset(seed=0)
    assert observations in envs.observation_space
    scenes = infos["scene_index"].reshape(4, 3)
    assert (scenes == scenes[:, :1]).all()
    assert len(set(scenes[:, 0].tolist())) > 1
    images = observations["image"].reshape(4, 3, 448, 448, 3)
    assert (images == images[:, :1]).all()


def test_a_group_ends_together_and_is_rewarded_relative_to_its_siblings(toy):
    envs = make(num_envs=8, group_size=4)
    envs.reset(options={"scene": [0, 2]})
    look_empty, both, right = LOOK + EMPTY, answer(LEFT, RIGHT), answer(RIGHT)
    first = (look_empty, both, LOOK, right, EMPTY, EMPTY, EMPTY, LOOK)
    _, rewards, terminated, truncated, infos = envs.step(first)
    assert not rewards.any()
    assert not terminated.any()
    assert not truncated.any()
    assert infos["waiting"].tolist() == [True, True, False, True, True, True, True, False]
    assert "reward_terms" not in infos
    assert "truth_boxes" not in infos
    _, rewards, terminated, truncated, infos = envs.step(
        ("ignored", 7, right, None, "", "", "", "<think>not yet</think>")
    )
    assert terminated.tolist() == [True] * 4 + [False] * 4
    assert not truncated.any()
    assert infos["waiting"].tolist() == [False] * 4 + [True] * 3 + [False]
    assert infos["_reward_terms"].tolist() == [True] * 4 + [False] * 4
    group = EpisodeGroup(toy[0], group_size=4)
    group.step([look_empty, both, LOOK, right])
    expected = group.step([None, None, right, None])
    assert rewards[:4].tolist() == [turn.reward for turn in expected]
    assert 0.8 < infos["reward_terms"]["look"][0] < 8 / 9  # one of three siblings finds her
    assert not rewards[4:].any()
    assert infos["truth_boxes"][0] == expected[0].result.truth_boxes.tolist()
    assert infos["truth_boxes"][4] is None


def test_groups_of_one_are_rewarded_like_single_environments_step_by_step():
    envs = make(num_envs=3, group_size=1)
    singles = [gym.make("DIPCrowd-v0", scenes="toy") for _ in range(3)]
    envs.reset(seed=5)
    for i, single in enumerate(singles):
        single.reset(seed=5 + i)
    space = singles[0].action_space
    space.seed(0)
    running = [True] * 3
    for _ in range(40):
        actions = [space.sample() for _ in range(2)] + ["oops"]
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for i, single in enumerate(singles):
            if not running[i]:
                observation, info = single.reset()
                result = (observation, 0.0, False, False, info)
            else:
                result = single.step(actions[i])
            running[i] = not (result[2] or result[3])
            assert np.array_equal(observations["image"][i], result[0]["image"])
            assert np.array_equal(observations["crops"][i], result[0]["crops"])
            assert observations["text"][i] == result[0]["text"]
            assert (rewards[i], terminated[i], truncated[i]) == result[1:4]
            assert infos["scene_index"][i] == result[4]["scene_index"]
            if "parse_error" in result[4]:
                assert infos["parse_error"][i] == result[4]["parse_error"]


def test_next_step_autoreset_starts_a_new_scene_and_ignores_the_groups_actions():
    envs = make(num_envs=4, group_size=2)
    envs.reset(seed=3)
    _, _, terminated, _, _ = envs.step((EMPTY, EMPTY, LOOK, EMPTY))
    assert terminated.tolist() == [True, True, False, False]
    observations, rewards, terminated, _, infos = envs.step((EMPTY, EMPTY, EMPTY, EMPTY))
    assert rewards[:2].tolist() == [0, 0]
    assert terminated.tolist() == [False, False, True, True]
    assert infos["_parse_error"].tolist() == [False, False, True, True]
    assert EMPTY not in observations["text"][0]
    assert not infos["waiting"][:2].any()


def test_without_autoreset_an_ended_group_must_be_reset_by_a_mask():
    envs = make(num_envs=4, group_size=2, autoreset_mode="Disabled")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    envs.reset(seed=3)
    envs.step((EMPTY, EMPTY, LOOK, EMPTY))
    with pytest.raises(EpisodeOverError, match=r"groups \[0\] have ended"):
        envs.step((EMPTY,) * 4)
    mask = np.array([True, True, False, False])
    observations, infos = envs.reset(options={"reset_mask": mask, "scene": 1})
    assert infos["_scene_index"].tolist() == mask.tolist()
    assert infos["scene_index"][:2].tolist() == [1, 1]
    assert LOOK in observations["text"][2]
    _, _, terminated, _, _ = envs.step((LOOK, LOOK, EMPTY, EMPTY))
    assert terminated.tolist() == [False, False, True, True]


def test_a_masked_reset_with_seeds_fixes_the_scene():
    envs = make(num_envs=4, group_size=2, autoreset_mode=AutoresetMode.DISABLED)
    seen = set()
    for _ in range(2):
        envs.reset()
        mask = np.array([False, False, True, True])
        _, infos = envs.reset(seed=[None, 11], options={"reset_mask": mask})
        seen.add(int(infos["scene_index"][2]))
    assert len(seen) == 1
    assert seen == {gym.make("DIPCrowd-v0", scenes="toy").reset(seed=11)[1]["scene_index"]}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([True, False, False, False]), r"whole groups of 2, got part of group 0"),
        (np.array([True, True, False, True]), r"whole groups of 2, got part of group 1"),
        (np.zeros(4, bool), "at least one True"),
        (np.zeros(3, bool), r"expected bool \(4,\), got bool \(3,\)"),
        (np.ones(4, int), r"expected bool \(4,\), got int"),
    ],
)
def test_a_mask_must_cover_whole_groups(mask, message):
    envs = make(num_envs=4, group_size=2, autoreset_mode="Disabled")
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match=message):
        envs.reset(options={"reset_mask": mask})


def test_the_same_seed_gives_the_same_scenes():
    a, b = make(), make()
    assert a.reset(seed=9)[1]["scene_index"].tolist() == b.reset(seed=9)[1]["scene_index"].tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 5, "group_size": 2}, "expected a positive multiple of group_size=2, got 5"),
        ({"group_size": 0}, "group_size: expected an integer >= 1, got 0"),
        ({"autoreset_mode": "SameStep"}, "autoreset_mode: expected"),
        ({"view_size": 3}, "view_size: expected an integer"),
    ],
)
def test_bad_arguments_are_errors(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**kwargs)


def test_a_wrong_call_leaves_every_group_as_it_was():
    envs = make(num_envs=4, group_size=2)
    with pytest.raises(ResetNeeded):
        envs.step((EMPTY,) * 4)
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, True, False, False])})
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="expected 4, got 3"):
        envs.step((EMPTY,) * 3)
    with pytest.raises(TypeError, match="expected 4 strings, got one string"):
        envs.step("abcd")
    with pytest.raises(TypeError, match=r"actions\[3\]: expected str, got NoneType"):
        envs.step((EMPTY, EMPTY, EMPTY, None))
    with pytest.raises(ConfigError, match="scene: expected one or 2, one per group, got 3"):
        envs.reset(options={"scene": [0, 1, 2]})
    assert all(episode.turn == 0 for group in envs.groups for episode in group.episodes)


def test_observations_handed_out_are_never_changed_later():
    envs = make(num_envs=2, group_size=2)
    before, _ = envs.reset(seed=0)
    copy = before["crops"].copy()
    envs.step((LOOK, LOOK))
    assert np.array_equal(before["crops"], copy)


def test_vector_wrappers_work():
    envs = RecordEpisodeStatistics(make(num_envs=2, group_size=2))
    envs.reset(options={"scene": 2})
    envs.step((EMPTY, LOOK))
    _, rewards, _, _, infos = envs.step((EMPTY, EMPTY))
    assert infos["episode"]["l"].tolist() == [2, 2]
    assert infos["episode"]["r"] == pytest.approx(rewards)
    assert rewards[1] > 0


def test_sampled_actions_play_forever():
    envs = make()
    envs.reset(seed=0)
    envs.action_space.seed(0)
    ends = 0
    for _ in range(20):
        observations, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space
        assert ((rewards >= 0) & (rewards <= 1)).all()
        ended = (terminated | truncated).reshape(2, 3)
        assert (ended.all(axis=1) == ended.any(axis=1)).all()
        ends += int(ended.all(axis=1).sum())
    assert ends > 4


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_every_member_is_rendered(mode):
    envs = make(num_envs=4, group_size=2, render_mode=mode)
    envs.reset(options={"scene": 0})
    envs.step((EMPTY, EMPTY, LOOK, EMPTY))
    frames = envs.render()
    assert frames is not None
    assert len(frames) == 4
    assert make().render() is None


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"seed": 5, "options": {"scene": [0, -1]}}, IndexError),
        ({"seed": [5, -1]}, gym.error.Error),
        ({"seed": -1}, gym.error.Error),
        ({"seed": 5, "options": {"scene": [0, 2]}}, SceneError),
        ({"options": {"scene": [3, 2]}}, SceneError),
    ],
)
def test_a_refused_reset_leaves_everything_as_it_was(missing_image, call, error):
    envs = [DIPCrowdVectorEnv(6, 3, scenes=missing_image) for _ in range(2)]
    for env in envs:
        env.reset(seed=1, options={"scene": [0, 1]})
    with pytest.raises(error):
        envs[0].reset(**call)
    steps = [env.step([LOOK] * 6) for env in envs]
    assert steps[0][0]["text"] == steps[1][0]["text"]
    states = [[rng.bit_generator.state for rng in env._rngs] for env in envs]
    assert states[0] == states[1]


def test_a_step_into_a_scene_that_cannot_start_leaves_everything_as_it_was(missing_image):
    envs = DIPCrowdVectorEnv(4, 2, scenes=missing_image)
    for seed in range(100):
        envs.reset(seed=seed, options={"scene": [0, 1]})
        envs.step([EMPTY, EMPTY, LOOK, LOOK])
        before = [rng.bit_generator.state for rng in envs._rngs]
        groups = list(envs.groups)
        try:
            envs.step([EMPTY] * 4)
        except SceneError:
            break
    assert envs.groups == groups
    assert [group.done for group in envs.groups] == [True, False]
    assert [rng.bit_generator.state for rng in envs._rngs] == before


def test_samples_are_actions_that_the_environment_takes():
    envs = make(num_envs=4, group_size=2, max_turns=6)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    for _ in range(60):
        infos = envs.step(envs.action_space.sample())[-1]
        assert all(error is None for error in infos.get("parse_error", ()))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 4.0}, "num_envs: expected an integer >= 0, got 4.0"),
        ({"group_size": "2"}, "group_size: expected an integer >= 1, got '2'"),
        ({"group_size": 2.0}, "group_size: expected an integer >= 1, got 2.0"),
        ({"num_envs": 3 * 10**7}, "num_envs, view_size, .*: expected observations of at most 16 G"),
    ],
)
def test_counts_of_another_type_or_size_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        DIPCrowdVectorEnv(**{"num_envs": 6, "group_size": 3, "scenes": "toy", **kwargs})


def test_counts_of_numpy_are_counts():
    envs = DIPCrowdVectorEnv(np.int64(4), np.int32(2), scenes="toy")
    assert (envs.num_envs, envs.group_size, len(envs.groups)) == (4, 2, 2)
