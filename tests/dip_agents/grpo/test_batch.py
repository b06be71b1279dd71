"""Who goes through the model, and why the others do not."""

import torch

from dip_agents.grpo.batch import active_tokens, training_batch
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.objectives.advantages import Advantages
from dip_agents.objectives.aggregation import Counts
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.result import Ending


def rollout(written, ending="answer"):
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1, 2])
    buffer.append_policy([3] * written, [-1.0] * written)
    return Rollout(buffer, 0.0, {}, RolloutStats(1, 0, 0.0, 0, 0, 0, Ending(ending)))


def group(scene, *rollouts, local=True):
    return RolloutGroup(scene, list(rollouts), local=local)


GROUPS = [
    group(7, rollout(3), rollout(0), rollout(2, "token_budget")),
    group(8, rollout(5), rollout(0), rollout(5, "token_budget")),  # all earned the same
    group(9, rollout(1, "max_turns"), rollout(0, "token_budget"), rollout(4)),
]
ADVANTAGES = Advantages(
    torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.0, 0.0], [-1.0, 0.25, 0.75]]),
    torch.tensor([True, False, True]),
)


def test_each_rollout_is_kept_or_counted_once_under_its_first_reason():
    batch = training_batch(GROUPS, ADVANTAGES)
    assert batch.origins == [(7, 0), (9, 0), (9, 2)]
    assert batch.advantages.tolist() == [1.0, -1.0, 0.75]
    assert [len(buffer.ids) for buffer in batch.buffers] == [5, 3, 6]
    assert batch.lengths == [3, 1, 4]
    assert batch.counts == Counts(rollouts=3, tokens=8)
    assert batch.dropped == {
        "rollout/dropped_zero_variance": 3,
        "rollout/dropped_excess": 0,
        "rollout/dropped_no_policy_tokens": 2,
        "rollout/dropped_truncated": 1,
    }


def test_truncated_rollouts_stay_when_asked():
    batch = training_batch(GROUPS, ADVANTAGES, mask_truncated=False)
    assert batch.origins == [(7, 0), (7, 2), (9, 0), (9, 2)]
    assert batch.dropped["rollout/dropped_truncated"] == 0


def test_running_out_of_turns_is_not_running_out_of_tokens():
    assert (9, 0) in training_batch(GROUPS, ADVANTAGES).origins


def test_a_first_token_is_never_predicted_and_does_not_count():
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_policy([1, 2], [-1.0, -1.0])
    assert active_tokens(buffer) == 1


def test_a_step_without_informative_groups_gives_an_empty_batch():
    batch = training_batch(GROUPS[1:2], Advantages(torch.zeros(1, 3), torch.tensor([False])))
    assert batch.buffers == []
    assert batch.counts == Counts(rollouts=0, tokens=0)


def test_only_the_first_informative_groups_stay_when_more_were_played():
    batch = training_batch(GROUPS, ADVANTAGES, max_groups=1)
    assert batch.origins == [(7, 0)]
    assert batch.dropped["rollout/dropped_excess"] == 3
    assert batch.dropped["rollout/dropped_zero_variance"] == 3
    assert training_batch(GROUPS, ADVANTAGES, max_groups=2).origins == [(7, 0), (9, 0), (9, 2)]


def test_turns_with_advantages_of_their_own_give_their_tokens_their_own_advantage():
    short, long = rollout(2), rollout(1)
    long.buffer.append_env([5])
    long.buffer.append_policy([6, 7], [-1.0, -1.0])
    advantages = Advantages(
        torch.tensor([[1.0, -1.0]]), torch.tensor([True]), turns=[[[0.5], [-2.0, 3.0]]]
    )
    batch = training_batch([group(0, short, long)], advantages)
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5, 0, 0], [0, 0, -2, 0, 3, 3]]
    assert batch.advantages_of([0], width=4).tolist() == [[0, 0, 0.5, 0.5]]
    assert training_batch(GROUPS, ADVANTAGES).advantages_of([2, 0], 6).tolist() == [0.75, 1.0]


def test_rollouts_of_other_processes_count_but_do_not_go_through_the_model_of_this_one():
    other = group(7, *GROUPS[0].rollouts, local=False)
    batch = training_batch([other, *GROUPS[1:]], ADVANTAGES)
    whole = training_batch(GROUPS, ADVANTAGES)
    assert (batch.origins, batch.counts, batch.dropped) == (
        whole.origins,
        whole.counts,
        whole.dropped,
    )
    assert whole.local_rows == [0, 1, 2]
    assert batch.local_rows == [1, 2]
    # Of a group with equal rewards, so that there is something to run even with no row here.
    assert batch.dummy is GROUPS[1].rollouts[0].buffer


def test_the_dummy_rollout_has_a_token_to_predict():
    mute, late = group(7, rollout(0), rollout(0)), group(8, rollout(0), rollout(2))
    advantages = Advantages(torch.zeros(2, 2), torch.tensor([False, False]))
    assert training_batch([mute, late], advantages).dummy is late.rollouts[1].buffer
    remote = group(8, *late.rollouts, local=False)
    assert training_batch([mute, remote], advantages).dummy is None


def test_tokens_that_write_a_region_have_its_advantage_and_others_that_of_their_turn():
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1, 2])
    buffer.append_policy([3] * 5, [-1.0] * 5)
    buffer.append_env([4])
    buffer.append_policy([5] * 2, [-1.0] * 2)
    records = (TurnRecord("", 1, region_tokens=((1, 2), (3, 5))), TurnRecord("", 0))
    stats = RolloutStats(2, 2, 0.0, 0, 0, 0, Ending.ANSWER, records)
    one = Rollout(buffer, 0.0, {}, stats)
    advantages = Advantages(
        torch.zeros(1, 1), torch.tensor([True]), [[[1.0, 2.0]]], regions=[[[7.0, 8.0]]]
    )
    batch = training_batch([group(7, one)], advantages)
    assert batch.advantages.tolist() == [[0, 0, 1, 7, 1, 8, 8, 0, 2, 2]]
