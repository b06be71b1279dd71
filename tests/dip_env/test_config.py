"""Rules are checked once and survive as plain values."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from dip_env.config import EpisodeConfig, RewardConfig, iou_thresholds
from dip_env.errors import ConfigError


def test_an_iou_rule_is_one_threshold_or_the_ten_of_coco():
    assert iou_thresholds("0.5") == (0.5,)
    assert iou_thresholds("0.75") == (0.75,)
    assert iou_thresholds("1") == (1.0,)
    assert iou_thresholds("0.5:0.95") == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize(
    "rule",
    [
        "0",
        "1.01",
        "-0.5",
        "nan",
        "",
        "half",
        "0.5:0.9",
        0.5,
        None,
        [],
        "\u0660.\u0665",
        "1e-1",
        "0_5",
    ],
)
def test_another_iou_rule_is_refused(rule):
    with pytest.raises(ConfigError, match=r"iou: expected a threshold in \(0, 1\] as text.*got "):
        RewardConfig(iou=rule)


def test_an_iou_threshold_survives_the_json_of_an_environment_spec():
    env = gym.make("DIPCrowd-v0", scenes="easy", iou="0.65")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config.reward.iou == env.unwrapped.config.reward.iou == "0.65"


def test_ambiguity_is_a_plain_keyword_and_another_one_is_refused():
    env = gym.make("DIPCrowd-v0", scenes="easy", ambiguity="annotation")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config.reward.ambiguity == "annotation"
    assert EpisodeConfig.from_keywords({}).reward.ambiguity == "siblings"
    with pytest.raises(ConfigError, match="ambiguity: expected siblings or annotation, got 'prio"):
        EpisodeConfig.from_keywords({"ambiguity": "prior"})


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"graded_format": "no"}, "graded_format: expected True or False, got 'no'"),
        ({"minimal_prompt": "false"}, "minimal_prompt: expected True or False"),
        ({"look_weight": "1"}, "look_weight: expected a number from 0 to"),
        ({"format_weight": None}, "format_weight: expected a number"),
        ({"accuracy_weight": 10**400}, "accuracy_weight: expected a number from 0 to 1e.06, got"),
        ({"beta": "1"}, "beta: expected a number from 0.001 to 1000, got '1'"),
        ({"beta": 1e200}, "beta: expected a number from 0.001 to 1000"),
        ({"beta": 1e-170}, "beta: expected a number from 0.001 to 1000"),
        ({"beta": float("nan")}, "beta: expected a number from 0.001 to 1000, got nan"),
        ({"view_size": 10**6}, "view_size: expected an integer <= 16384, got 1000000"),
        ({"view_size": 448.0}, "view_size: expected an integer"),
        ({"max_boxes": 10**30}, "max_boxes: expected an integer <= 1000000"),
        ({"max_looks": True}, "max_looks: expected an integer >= 0, got True"),
        ({"magnification": "2"}, "magnification: expected a number from 1 to 100"),
        ({"reward": None}, "unknown keyword 'reward'"),
    ],
)
def test_values_of_another_type_or_size_are_refused_by_name(keyword, message):
    with pytest.raises(ConfigError, match=message):
        EpisodeConfig.from_keywords(keyword)


def test_numbers_of_numpy_are_those_of_python():
    given = {"max_looks": np.int64(3), "beta": np.float32(2), "graded_format": np.True_}
    config = EpisodeConfig.from_keywords(given)
    assert config == EpisodeConfig.from_keywords(
        {"max_looks": 3, "beta": 2.0, "graded_format": True}
    )
    assert type(config.max_looks) is int and type(config.reward.graded_format) is bool


@pytest.mark.parametrize("beta", [1e-3, 1e3])
def test_the_extreme_betas_are_recall_and_precision(beta):
    found, predicted, true = 3, 4, 6
    f = (1 + beta**2) * found / (beta**2 * true + predicted)
    wanted = found / predicted if beta < 1 else found / true
    assert f == pytest.approx(wanted, rel=1e-5)
    assert RewardConfig(beta=beta).beta == beta
