"""What is logged of a batch equals what is counted by hand."""

from dataclasses import dataclass

import pytest
import torch

from dip_agents.advantages import group_advantages
from dip_agents.rollout_metrics import policy_tokens, rollout_metrics
from dip_agents.token_buffer import TokenBuffer


@dataclass
class ToyRollout:
    buffer: TokenBuffer
    reward: float
    terms: dict
    info: dict


@dataclass
class ToyGroup:
    scene_index: int
    rollouts: list


def rollout(reward, written, *, looks=0, boxes=0, truth=2, ending="answer", failures=0):
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1, 2, 3])
    buffer.append_policy([4] * written, [-0.5] * written)
    info = {
        "turns": 1 + looks,
        "looks": looks,
        "look_area": 0.25 * looks,
        "boxes": boxes,
        "truth_count": truth,
        "parse_failures": failures,
        "ending": ending,
        "transcript": [],
    }
    return ToyRollout(buffer, reward, {"format": 1.0, "accuracy": reward}, info)


def describe(groups):
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    return rollout_metrics(groups, group_advantages(rewards, "dr_grpo"))


def test_every_number_equals_the_count_by_hand():
    groups = [
        ToyGroup(0, [rollout(0.0, 4, boxes=3), rollout(1.0, 2, looks=2, boxes=1)]),
        ToyGroup(
            1,
            [
                rollout(0.5, 0, ending="token_budget", failures=3),
                rollout(0.5, 6, ending="max_turns", failures=1),
            ],
        ),
    ]
    assert describe(groups) == pytest.approx(
        {
            "reward/total": 0.5,
            "reward/format": 1.0,
            "reward/accuracy": 0.5,
            "reward_std/total": 0.125**0.5,
            "reward_std/format": 0.0,
            "reward_std/accuracy": 0.125**0.5,
            "advantage/mean": 0.0,
            "advantage/std": 0.125**0.5,
            "advantage/abs": 0.25,
            "group/frac_mixed": 0.5,
            "group/dropped": 1.0,
            "group/reward_std": 0.25,
            "rollout/tokens": 24.0,
            "rollout/length_mean": 6.0,
            "rollout/length_max": 9.0,
            "rollout/policy_tokens_mean": 3.0,
            "rollout/policy_tokens_max": 6.0,
            "rollout/surprisal": 0.5,
            "rollout/turns": 1.5,
            "rollout/looks": 0.5,
            "rollout/look_area": 0.125,
            "rollout/looked": 0.25,
            "rollout/boxes": 1.0,
            "rollout/boxes_over_truth": 0.5,
            "rollout/parse_failures": 1.0,
            "rollout/truncated": 0.25,
            "rollout/ending_answer": 0.5,
            "rollout/ending_max_turns": 0.25,
            "rollout/ending_token_budget": 0.25,
        }
    )


def test_empty_scenes_and_silent_rollouts_divide_by_nothing():
    numbers = describe([ToyGroup(0, [rollout(0.0, 0, truth=0), rollout(0.0, 0, truth=0)])])
    assert numbers["rollout/boxes_over_truth"] == 0.0
    assert numbers["rollout/surprisal"] == 0.0


def test_policy_tokens_are_those_the_policy_wrote():
    assert policy_tokens(rollout(0.0, 5)) == 5
