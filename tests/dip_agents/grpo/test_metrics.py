"""What is logged of a batch equals what is counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dip_agents.grpo.branches import Branch
from dip_agents.grpo.metrics import (
    branch_metrics,
    environment_times,
    look_metrics,
    policy_tokens,
    rollout_metrics,
)
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.objectives.advantages import group_advantages
from dip_agents.tokens.buffer import EncodedImage, TokenBuffer
from dip_env.result import Ending
from dip_env.rewards import LookStats


def rollout(reward, written, *, looks=0, boxes=0, truth=2, ending="answer", failures=0):
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1, 2, 3])
    buffer.append_policy([4] * written, [-0.5] * written)
    stats = RolloutStats(
        turns=1 + looks,
        regions=looks,
        look_area=0.25 * looks,
        boxes=boxes,
        truth_count=truth,
        parse_failures=failures,
        ending=Ending(ending),
    )
    return Rollout(buffer, reward, {"format": 1.0, "accuracy": reward}, stats)


def with_turn_rewards(one, *rewards):
    records = tuple(TurnRecord("", 0, reward) for reward in rewards)
    return replace(one, stats=replace(one.stats, turn_records=records))


def describe(groups):
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    return rollout_metrics(groups, group_advantages(rewards, "dr_grpo"))


def test_every_number_equals_the_count_by_hand():
    groups = [
        RolloutGroup(0, [rollout(0.0, 4, boxes=3), rollout(1.0, 2, looks=2, boxes=1)]),
        RolloutGroup(
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
            "group/collected": 2.0,
            "group/frac_informative": 0.5,
            "group/frac_zero_variance": 0.5,
            "group/dropped": 1.0,
            "group/reward_std": 0.25,
            "rollout/tokens": 24.0,
            "rollout/sampled_tokens": 12.0,
            "rollout/length_mean": 6.0,
            "rollout/length_max": 9.0,
            "rollout/policy_tokens_mean": 3.0,
            "rollout/policy_tokens_min": 0.0,
            "rollout/policy_tokens_max": 6.0,
            "rollout/terminated_tokens_mean": 4.0,
            "rollout/pixels": 0.0,
            "rollout/surprisal": 0.5,
            "rollout/turns": 1.5,
            "rollout/regions": 0.5,
            "rollout/look_area": 0.125,
            "rollout/looked": 0.25,
            "rollout/boxes": 1.0,
            "rollout/boxes_over_truth": 0.5,
            "rollout/parse_failures": 1.0,
            "rollout/truncated": 0.25,
            "rollout/truncated_share": 0.0,
            "rollout/ending_answer": 0.5,
            "rollout/ending_max_turns": 0.25,
            "rollout/ending_token_budget": 0.25,
        }
    )


def test_empty_scenes_and_silent_rollouts_divide_by_nothing():
    numbers = describe([RolloutGroup(0, [rollout(0.0, 0, truth=0), rollout(0.0, 0, truth=0)])])
    assert numbers["rollout/boxes_over_truth"] == 0.0
    assert "rollout/surprisal" not in numbers


def test_policy_tokens_are_those_the_policy_wrote():
    assert policy_tokens(rollout(0.0, 5)) == 5


def test_what_every_rollout_lacks_is_not_reported_as_nought():
    cut = [rollout(0.0, 3, ending="token_budget") for _ in range(2)]
    numbers = describe([RolloutGroup(0, cut)])
    assert "rollout/terminated_tokens_mean" not in numbers
    assert not [name for name in numbers if name.startswith("reward/turn")]


def test_what_looks_cover_and_whether_they_are_told_apart():
    def looking(look, stats, looks_left=1):
        one = rollout(0.0, 1, looks=1)
        records = (TurnRecord("", looks_left),)
        return replace(
            one,
            terms={"look": look},
            stats=replace(one.stats, look_stats=stats, turn_records=records),
        )

    nothing = LookStats(ambiguous_people=0, invented=0.0, covered=None, area=0.1)
    half = LookStats(ambiguous_people=4, invented=0.25, covered=0.5, area=0.1)
    groups = [
        RolloutGroup(0, [looking(0.0, nothing), looking(0.4, half)], {"look": 0.1}),
        RolloutGroup(1, [looking(0.4, half), looking(0.4, half)], {"look": 0.1}),
    ]
    assert look_metrics(groups) == {
        "rollout/ambiguous_people": 3.0,
        "rollout/invented_ambiguity": 0.25,
        "rollout/look_coverage": 0.5,
        "group/frac_look_signal": 0.5,
    }
    # Where nobody may look, there is nothing to tell.
    assert look_metrics([RolloutGroup(0, [looking(0.0, nothing, looks_left=0)] * 2)]) == {}
    # A look term without weight need not tell anybody apart.
    for weights, signal in (({"look": 0.1}, {"group/frac_look_signal": 0.0}), ({"look": 0.0}, {})):
        agreed = look_metrics([RolloutGroup(0, [looking(0.0, nothing)] * 2, weights)])
        assert agreed == {"rollout/ambiguous_people": 0.0, **signal}


def test_an_image_is_counted_once_however_many_rollouts_show_it():
    def image(key, height, width):
        return EncodedImage((1, 2, 2), 1, key, np.zeros((height, width, 3), np.uint8))

    rollouts = [rollout(0.0, 1), rollout(1.0, 1)]
    rollouts[0].buffer.images.extend([image(b"a", 10, 20), image(b"b", 3, 4)])
    rollouts[1].buffer.images.extend([image(b"a", 10, 20)])
    assert describe([RolloutGroup(0, rollouts)])["rollout/pixels"] == 212


def test_tokens_without_a_logprob_are_left_out_of_the_surprisal():
    known, unknown = rollout(0.0, 2), rollout(1.0, 3)
    unknown.buffer.logprobs = [math.nan] * 6
    assert describe([RolloutGroup(0, [known, unknown])])["rollout/surprisal"] == 0.5


def test_rewards_of_turns_are_averaged_over_those_who_took_them():
    rollouts = [
        with_turn_rewards(rollout(1.0, 1), 0.25, 0.75),
        with_turn_rewards(rollout(0.5, 1), 0.5),
    ]
    numbers = describe([RolloutGroup(0, rollouts)])
    assert (numbers["reward/turn_1"], numbers["reward/turn_2"]) == (0.375, 0.75)


def test_the_environments_time_is_a_share_of_collecting():
    groups = [RolloutGroup(0, [], environment_seconds=seconds) for seconds in (1.0, 2.0)]
    assert environment_times(groups, 6.0) == {
        "time/environment": 3.0,
        "time/environment_share": 0.5,
    }


def branched(reward, look, answer, *, looked=True, blank=False):
    """A rollout with five tokens, three of them up to the fork (two of the policy)."""
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1])
    buffer.append_policy([4, 4], [-1.0, -1.0])
    buffer.append_policy([5, 5], [-3.0, -3.0])
    branch = Branch(look, answer, turns=1, tokens=3 if looked else 5, looked=looked, blank=blank)
    return replace(rollout(reward, 0), buffer=buffer, branch=branch)


def test_how_much_looks_and_answers_decide():
    groups = [
        RolloutGroup(0, [branched(r, n // 2, n % 2) for n, r in enumerate((0.75, 0.25, 0.0, 0.0))]),
        RolloutGroup(1, [branched(0.5, n // 2, n % 2, looked=n < 2) for n in range(4)]),
    ]
    # First group: look means 0.5 and 0, variance 1/8; answers vary by 1/8 after one look and by 0
    # after the other, 1/16 in the mean. Second group: nothing.
    assert branch_metrics(groups) == pytest.approx(
        {
            "group/look_return_spread": 0.5 * (1 / 8) ** 0.5,
            "group/answer_spread": 0.5 * (1 / 16) ** 0.5,
            "rollout/forked": 0.75,
        }
    )
    assert branch_metrics([RolloutGroup(0, [rollout(0.0, 1)])]) == {}


def test_what_crops_bring_is_measured_where_there_was_a_look():
    rewards = (0.75, 0.25, 0.5, 0.0, 0.25, 0.25)  # also the accuracies here
    members = [
        branched(reward, n // 2, n % 2, looked=n < 4, blank=n % 2 == 1)
        for n, reward in enumerate(rewards)
    ]
    numbers = branch_metrics([RolloutGroup(0, members)])
    assert numbers["rollout/accuracy_with_crops"] == 0.625
    assert numbers["rollout/accuracy_blank"] == 0.125
    assert numbers["rollout/crop_value"] == 0.5
    assert "group/answer_spread" not in numbers  # one answer a look is left without blank ones


def test_behaviour_is_that_of_rollouts_that_see_their_crops():
    members = [
        branched(r, n // 2, n % 2, blank=n % 2 == 1) for n, r in enumerate((0.8, 0.0, 0.4, 0.0))
    ]
    found = RolloutGroup(0, members)
    numbers = describe([found])
    assert numbers["reward/total"] == pytest.approx(0.6)
    assert numbers["rollout/sampled_tokens"] == 4 + 2 + 4 + 2


def test_tokens_that_members_share_were_sampled_once():
    members = [branched(0.5, 0, 0), branched(0.5, 0, 1)]
    members += [branched(0.5, 1, 0, looked=False), branched(0.5, 1, 1, looked=False)]
    numbers = describe([RolloutGroup(0, members)])
    # 4 of the first, 2 more of the second, 4 of the third, which the fourth is a copy of.
    assert numbers["rollout/sampled_tokens"] == 10
    assert numbers["rollout/surprisal"] == pytest.approx((4 * 1 + 6 * 3) / 10)
    assert numbers["rollout/tokens"] == 20


def test_truncated_turns_are_counted_as_a_share_of_all_turns():
    cut = rollout(0.0, 4, looks=2)
    cut = replace(cut, stats=replace(cut.stats, truncated_turns=2))
    numbers = describe([RolloutGroup(0, [cut, rollout(1.0, 2)])])
    assert numbers["rollout/truncated_share"] == 2 / 4
