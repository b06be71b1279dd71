from __future__ import annotations

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from dip_env.actions import Look
from dip_env.env import DIPCrowdEnv
from dip_env.episode import Episode
from dip_env.errors import ConfigError, EpisodeOverError, SceneError

LOOK = "<think>there?</think><look>[[20,60,100,240],[200,100,300,150]]</look>"
END_KEYS = {"reward_terms", "truth_boxes", "ignore_boxes", "answer_boxes", "matches"}


def make(**kwargs) -> gym.Env:
    return gym.make("DIPCrowd-v0", **{"scenes": "toy", **kwargs})


def same(a, b) -> bool:
    """Compare observations and infos by value."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"coordinate_format": "norm1000", "size_multiple": 28}, {"max_looks": 0}],
)
def test_check_env_passes_without_a_warning(kwargs, monkeypatch):
    warnings = []
    monkeypatch.setattr(gym.logger, "warn", lambda message, *args: warnings.append(message))
    check_env(make(**kwargs).unwrapped)
    assert warnings == []


def test_the_environment_has_a_name_with_and_without_its_module():
    assert isinstance(make().unwrapped, DIPCrowdEnv)
    assert isinstance(gym.make("dip_env:DIPCrowd-v0", scenes="toy").unwrapped, DIPCrowdEnv)
    assert isinstance(gym.make("DIPCrowd-v0").unwrapped, DIPCrowdEnv)


def test_plain_keywords_survive_the_spec_as_json():
    kwargs = {"view_size": 320, "accuracy": "weighted_sum", "look_weight": 0.5, "max_turns": 2}
    env = make(**kwargs)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config == env.unwrapped.config
    assert again.unwrapped.config.reward.look_weight == 0.5
    assert again.observation_space == env.observation_space
    assert again.action_space == env.action_space


def test_observations_hold_overview_crops_boxes_and_the_conversation(toy):
    env = make()
    observation, info = env.reset(options={"scene": 0})
    assert observation["image"].shape == (448, 448, 3)
    assert info["view_size"].tolist() == [448, 320]
    assert not observation["image"][320:].any()
    assert not observation["crops"].any()
    expected = Episode(toy[0])
    assert np.array_equal(observation["image"][:320], expected.opening.images[0])
    assert expected.opening.text in observation["text"]

    observation, reward, terminated, truncated, info = env.step(LOOK)
    crops = expected.step(LOOK).crops
    assert (reward, terminated, truncated) == (0, False, False)
    for k, crop in enumerate(crops):
        width, height = info["crop_sizes"][k]
        assert np.array_equal(observation["crops"][k, :height, :width], crop.image)
        assert not observation["crops"][k, height:].any()
        assert not observation["crops"][k, :, width:].any()
    assert observation["crop_boxes"][:2].tolist() == [
        pytest.approx([20, 60, 100, 240]),
        pytest.approx([200, 100, 300, 150]),
    ]
    assert not observation["crop_boxes"][2:].any()
    assert not info["crop_sizes"][2:].any()
    assert LOOK in observation["text"]
    assert "Crop 2 shows [200,100,300,150]" in observation["text"]


def test_the_truth_shows_after_the_end_only_and_prints_back_as_an_answer():
    env = make()
    env.reset(options={"scene": 0})
    *_, info = env.step(LOOK)
    assert not END_KEYS & set(info)
    _, _, terminated, _, info = env.step("<answer>[]</answer>")
    assert terminated
    assert set(info) >= END_KEYS
    env.reset(options={"scene": 0})
    boxes = np.round(info["truth_boxes"], 2).tolist()
    _, reward, _, _, info = env.step(f"<answer>{json.dumps(boxes)}</answer>")
    assert info["reward_terms"]["accuracy"] == 1
    assert reward == pytest.approx(0.8)
    assert info["matches"]["truth"] == [0, 1, 2]
    json.dumps({key: info[key] for key in END_KEYS})


def test_a_seed_fixes_this_and_all_later_episodes():
    a, b = make(), make()
    scenes = []
    for seed in (7, None, None, None):
        (obs_a, info_a), (obs_b, info_b) = a.reset(seed=seed), b.reset(seed=seed)
        assert same(obs_a, obs_b)
        assert same(info_a, info_b)
        scenes.append(info_a["scene_index"])
        for action in (LOOK, "oops", "<answer>[[28,66,84,227]]</answer>"):
            for x, y in zip(a.step(action), b.step(action), strict=True):
                assert same(x, y)
    assert len(set(scenes)) > 1


def test_seeds_reach_every_scene():
    env = make()
    assert {env.reset(seed=s)[1]["scene_index"] for s in range(40)} == {0, 1, 2, 3}


@pytest.mark.parametrize("index", [-1, 4])
def test_a_scene_that_is_not_there_is_an_error(index):
    with pytest.raises(IndexError, match=rf"expected 0\.\.3, got {index}"):
        make().reset(options={"scene": index})


def test_an_unknown_option_is_an_error():
    with pytest.raises(ConfigError, match=r"expected \['scene'\], got 'scenes'"):
        make().reset(options={"scenes": 1})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scenes": "toyy"}, "expected one of easy"),
        ({"scenes": 3}, "expected a name or a SceneSource, got int"),
        ({"scenes": []}, "expected at least one scene"),
        ({"max_lookz": 3}, "unknown keyword 'max_lookz'"),
        ({"max_turns": 0}, "max_turns: expected an integer >= 1"),
    ],
)
def test_bad_arguments_are_errors(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**kwargs)


def test_an_unknown_render_mode_is_an_error():
    with pytest.raises(ConfigError, match="render_mode: expected one of"):
        DIPCrowdEnv("toy", render_mode="human")


def test_arguments_of_the_source_survive_the_spec_as_json():
    env = make(scenes="easy", scene_seed=4, split="val", source_kwargs={"people": (2, 3)})
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    first, second = env.reset(options={"scene": 5})[0], again.reset(options={"scene": 5})[0]
    assert np.array_equal(first["image"], second["image"])
    other = make(scenes="easy", scene_seed=4, split="val").reset(options={"scene": 5})[0]
    assert not np.array_equal(first["image"], other["image"])


def test_a_source_of_ones_own_can_be_passed(toy):
    env = make(scenes=toy)
    assert env.unwrapped.source is toy


def test_misuse_is_an_error():
    env = DIPCrowdEnv("toy")
    with pytest.raises(ResetNeeded):
        env.step("<answer>[]</answer>")
    env.reset()
    with pytest.raises(TypeError, match="expected str, got int"):
        env.step(3)  # type: ignore[arg-type]
    env.step("<answer>[]</answer>")
    with pytest.raises(EpisodeOverError):
        env.step("<answer>[]</answer>")


def test_any_text_is_an_action():
    env = make()
    env.reset(seed=0)
    for action in ("", "é 群 🙂", "<look>"):
        assert action in env.action_space
        *_, info = env.step(action)
        assert info["parse_error"]


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_own_vector_environments_work(vector):
    extra = {} if vector is SyncVectorEnv else {"shared_memory": False}
    envs = vector([make] * 2, **extra)
    try:
        observations, _ = envs.reset(seed=[0, 1])
        single = [make().reset(seed=s)[0] for s in (0, 1)]
        assert np.array_equal(observations["image"], np.stack([o["image"] for o in single]))
        assert observations["text"] == tuple(o["text"] for o in single)
        envs.reset(seed=0, options={"scene": 0})
        observations, *_ = envs.step((LOOK, "nonsense"))
        assert observations["crops"][0].any()
        assert not observations["crops"][1].any()
        assert "nonsense" in observations["text"][1]
    finally:
        envs.close()


def test_crowds_of_unequal_size_can_end_in_the_same_step_of_a_vector_environment():
    envs = SyncVectorEnv([make] * 4)
    scenes = envs.reset(seed=1)[1]["scene_index"]
    assert len(set(scenes.tolist())) > 1
    _, rewards, terminated, _, infos = envs.step(("<answer>[[28,66,84,227]]</answer>",) * 4)
    assert terminated.all()
    counts = [len(boxes) for boxes in infos["truth_boxes"]]
    assert counts == [[3, 2, 0, 1][scene] for scene in scenes]
    assert rewards == pytest.approx(0.8 * infos["reward_terms"]["accuracy"])


def test_episode_statistics_are_recorded():
    env = RecordEpisodeStatistics(make())
    env.reset(options={"scene": 2})
    env.step(LOOK)
    _, reward, *_, info = env.step("<answer>[]</answer>")
    assert info["episode"]["l"] == 2
    assert info["episode"]["r"] == pytest.approx(reward, abs=1e-6)
    assert reward > 0


def test_a_time_limit_truncates():
    env = TimeLimit(make(max_turns=2), max_episode_steps=2)
    env.reset(seed=0)
    assert not env.step("<think>x</think>")[3]
    assert env.step("<think>x</think>")[3]


def test_a_time_limit_below_the_turns_of_the_rules_is_warned_of_once(monkeypatch):
    warnings = []
    monkeypatch.setattr(gym.logger, "warn", lambda message, *args: warnings.append(message))
    env = make(max_episode_steps=3)
    env.reset(seed=0)
    env.reset(seed=0)
    assert len(warnings) == 1
    assert "expected at least max_turns=4, got 3" in warnings[0]
    assert "set max_turns=3 instead" in warnings[0]
    make(max_episode_steps=4).reset(seed=0)
    make().reset(seed=0)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"seed": 7, "options": {"scene": -1}}, IndexError),
        ({"options": {"scene": 99}}, IndexError),
        ({"seed": 7, "options": {"scene": 1.5}}, TypeError),
        ({"seed": 7, "options": {"scenes": 1}}, ConfigError),
        ({"seed": -7}, gym.error.Error),
        ({"seed": 7, "options": {"scene": 2}}, SceneError),
    ],
)
def test_a_refused_reset_leaves_everything_as_it_was(missing_image, call, error):
    envs = [DIPCrowdEnv(missing_image) for _ in range(2)]
    for env in envs:
        env.reset(seed=3, options={"scene": 1})
    with pytest.raises(error):
        envs[0].reset(**call)
    steps = [env.step(LOOK) for env in envs]
    assert same(steps[0][0], steps[1][0])
    drawn = [[env.np_random.integers(1000) for _ in range(4)] for env in envs]
    assert drawn[0] == drawn[1]
    assert envs[0].np_random_seed == envs[1].np_random_seed == 3


def test_a_scene_that_cannot_be_drawn_takes_no_number_from_the_generator(missing_image):
    env, twin = DIPCrowdEnv(missing_image), DIPCrowdEnv(missing_image)
    for one in (env, twin):
        one.reset(seed=0, options={"scene": 0})
    while True:
        try:
            env.reset()
        except SceneError:
            break
        twin.reset()
    state = env.np_random.bit_generator.state
    assert state == twin.np_random.bit_generator.state
    assert env.episode.scene_index == twin.episode.scene_index


@pytest.mark.parametrize("kwargs", [{}, {"coordinate_format": "norm1000"}, {"max_looks": 0}])
def test_samples_are_actions_that_the_environment_takes(kwargs):
    env = make(max_turns=6, **kwargs)
    env.action_space.seed(0)
    looks = 0
    for seed in range(40):
        env.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
            assert info["parse_error"] is None
            looks += any(isinstance(segment, Look) for segment in info["segments"])
            done = terminated or truncated
    assert looks == 0 if kwargs.get("max_looks") == 0 else looks > 10


def test_the_text_of_a_refused_action_can_be_encoded():
    env = make()
    env.reset(seed=0)
    observation, *_, info = env.step("<think>\ud800</think>")
    assert "lone surrogate" in info["parse_error"]
    assert "<think>\N{REPLACEMENT CHARACTER}</think>" in observation["text"]
    observation["text"].encode()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_looks": 10**5}, "crop_size, max_looks, max_regions: expected all crops of at most"),
        ({"max_regions": 10**6}, "expected all crops of at most 1 GiB, got"),
        ({"view_size": 10**6}, "view_size: expected an integer <= 16384"),
        ({"source_kwargs": [1]}, r"source_kwargs: expected a mapping, got \[1\]"),
        ({"source_kwargs": {"x": 1}}, "toy: unknown argument 'x'; expected none"),
        ({"split": "nope"}, "split: expected one of train, val, test, got 'nope'"),
        ({"split": 5}, "split: expected a name, got 5"),
        ({"scene_seed": "x"}, "scene_seed: expected an integer >= 0, got 'x'"),
        ({"scenes": "easy", "scene_seed": -1}, "scene_seed: expected an integer >= 0, got -1"),
    ],
)
def test_what_cannot_work_is_refused_when_the_environment_is_made(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("scenes", ["toy", "far"])
def test_an_environment_in_mid_episode_can_be_pickled_and_goes_on(scenes):
    env = make(scenes=scenes).unwrapped
    env.reset(seed=0)
    env.step(LOOK)
    copy = pickle.loads(pickle.dumps(env))
    for action in ("<think>x</think>", "<answer>[]</answer>"):
        first, second = env.step(action), copy.step(action)
        assert same(first[0], second[0])
        assert first[1:4] == second[1:4]
    assert env.reset()[1]["scene_index"] == copy.reset()[1]["scene_index"]
