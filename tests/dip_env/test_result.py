from __future__ import annotations

import json

import pytest

from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.episode import Episode
from dip_env.result import Ending


def test_an_ending_is_its_name_in_logs_and_files():
    assert f"rollout/ending_{Ending.ANSWER}" == "rollout/ending_answer"
    assert json.loads(json.dumps(list(Ending))) == ["answer", "max_turns", "token_budget"]


def test_the_reward_of_a_result_is_the_weighted_sum_of_its_terms(toy):
    weights = RewardConfig(format_weight=0.25, look_weight=0.0, accuracy_weight=2.0)
    episode = Episode(toy[0], EpisodeConfig(reward=weights))
    turn = episode.step("<think>all</think><answer>[[28.0,66.67,84.0,226.67]]</answer>")
    # One of three is found: F1 is 2 * 1 / (1 + 3). Without a look the format term is 0.
    assert turn.result.terms.accuracy == pytest.approx(0.5)
    assert turn.result.reward == turn.reward == pytest.approx(2.0 * 0.5)
    assert len(turn.result.answer_boxes) == 1 and len(turn.result.truth_boxes) == 3
    assert turn.result.matches.pred.tolist() == [0]
