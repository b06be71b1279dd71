"""Rules are checked once and survive as plain values."""

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from dip_env.config import EpisodeConfig, RewardConfig, iou_thresholds
from dip_env.errors import ConfigError


def test_an_iou_rule_is_one_threshold_or_the_ten_of_coco():
    assert iou_thresholds("0.5") == (0.5,)
    assert iou_thresholds("0.75") == (0.75,)
    assert iou_thresholds("1") == (1.0,)
    assert iou_thresholds("0.5:0.95") == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize("rule", ["0", "1.01", "-0.5", "nan", "", "half", "0.5:0.9", 0.5, None, []])
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
