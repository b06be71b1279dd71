"""From what rollouts earned to their advantages."""

import pytest
import torch

from dip_agents.grpo.credit import compute_advantages, turn_rewards
from dip_agents.grpo.rollouts import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.objectives.advantages import group_advantages
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.result import Ending


def rollout(reward, anchors=("start",), *, left=None, turn_rewards=None, terms=None):
    looks_left = left or [0] * len(anchors)
    rewards = turn_rewards or [None] * len(anchors)
    records = tuple(map(TurnRecord, anchors, looks_left, rewards))
    stats = RolloutStats(len(anchors), 0, 0.0, 0, 0, 0, Ending.ANSWER, records)
    return Rollout(TokenBuffer(image_token_id=99), reward, terms or {}, stats)


def group(*rollouts, weights=None):
    return RolloutGroup(0, list(rollouts), weights or {})


def test_kinds_that_read_totals_are_those_of_the_rewards():
    groups = [group(rollout(0.0), rollout(1.0)), group(rollout(0.5), rollout(0.5))]
    for kind in ("grpo", "dr_grpo", "batch_std", "rloo"):
        got = compute_advantages(groups, kind)
        wanted = group_advantages(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), kind)
        assert torch.equal(got.values, wanted.values)
        assert got.informative.tolist() == [True, False]
        assert got.turns is None


def test_gdpo_weighs_the_terms_as_the_reward_does():
    def one(form, accuracy):
        terms = {"accuracy": accuracy, "form": form}
        return rollout(0.25 * form + 0.75 * accuracy, terms=terms)

    weights = {"form": 0.25, "accuracy": 0.75}
    groups = [
        group(one(1.0, 0.0), one(0.0, 0.2), weights=weights),
        group(one(1.0, 1.0), one(0.0, 0.0), weights=weights),
    ]
    terms = torch.tensor([[[1.0, 0.0], [0.0, 0.2]], [[1.0, 1.0], [0.0, 0.0]]])
    wanted = group_advantages(
        torch.zeros(2, 2), "gdpo", terms_P_G_K=terms, term_weights=[0.25, 0.75]
    )
    torch.testing.assert_close(compute_advantages(groups, "gdpo").values, wanted.values)
    with pytest.raises(ValueError, match=r"gdpo: expected RolloutGroup.weights"):
        compute_advantages([group(rollout(0.0), rollout(1.0))], "gdpo")


def test_gigpo_adds_the_turns_part_to_the_episodes():
    looked, again = ("start", "crop"), ("start", "crop")
    groups = [group(rollout(0.0, looked), rollout(1.0, again), rollout(1.0, ("start", "other")))]
    episodes = group_advantages(torch.tensor([[0.0, 1.0, 1.0]]), "grpo").values[0].tolist()
    got = compute_advantages(groups, "gigpo", turn_weight=0.5, turn_discount=1.0)
    (turns,) = got.turns
    # The first turn of all is one anchor with the rewards as returns: the episode's part again.
    assert [t[0] for t in turns] == pytest.approx([1.5 * e for e in episodes], abs=1e-3)
    half = 0.5 * 0.5**0.5  # two at the crop, with returns 0 and 1
    assert turns[0][1] == pytest.approx(episodes[0] - half, abs=1e-3)
    assert turns[1][1] == pytest.approx(episodes[1] + half, abs=1e-3)
    assert turns[2][1] == pytest.approx(episodes[2])


def test_gigpo_hears_when_turns_earned_what_episodes_earned_alike():
    def one(*paid):
        return rollout(sum(paid), ("start", "crop"), turn_rewards=paid)

    got = compute_advantages([group(one(1.0, 0.0), one(0.0, 1.0))], "gigpo", turn_discount=1.0)
    assert got.values.tolist() == [[0.0, 0.0]]
    assert got.informative.tolist() == [True]
    (early, late) = got.turns[0]
    assert early[0] == late[0] == 0.0
    assert early[1] < 0 < late[1]
    assert not compute_advantages([group(one(1.0, 0.0), one(1.0, 0.0))], "gigpo").informative.any()


def test_without_rewards_of_turns_the_last_one_earned_all():
    assert turn_rewards(rollout(0.7, ("a", "b", "c"))) == [0.0, 0.0, 0.7]
    assert turn_rewards(rollout(0.7, ())) == []
    assert turn_rewards(rollout(0.7, ("a", "b"), turn_rewards=(0.2, 0.5))) == [0.2, 0.5]


LOOKER_WEIGHTS = {"look": 0.5, "accuracy": 0.5}


def looker(look, accuracy, left=(1, 0)):
    terms = {"look": look, "accuracy": accuracy}
    reward = 0.5 * look + 0.5 * accuracy
    return rollout(reward, tuple(map(str, range(len(left)))), left=left, terms=terms)


def lookers(*rollouts):
    return group(*rollouts, weights=LOOKER_WEIGHTS)


def test_causal_credit_gives_the_look_term_to_the_turns_that_could_look():
    groups = [lookers(looker(1.0, 0.0), looker(0.0, 0.4), looker(0.2, 0.2, left=(2, 1, 1)))]
    # Rewards 0.5, 0.2, 0.2, mean 0.3; without the look 0, 0.2, 0.1, mean 0.1.
    got = compute_advantages(groups, "dr_grpo", look_credit="causal")
    assert got.values[0].tolist() == pytest.approx([0.2, -0.1, -0.1])
    assert got.turns[0][0] == pytest.approx([0.2, -0.1])
    assert got.turns[0][1] == pytest.approx([-0.1, 0.1])
    assert got.turns[0][2] == pytest.approx([-0.1, -0.1, -0.1])  # it could still look, and did not


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "batch_std", "rloo", "gdpo", "gigpo"])
def test_causal_credit_of_looks_that_all_did_alike_changes_nothing(kind):
    groups = [
        lookers(looker(0.3, 0.0), looker(0.3, 0.4)),
        lookers(looker(0.1, 0.1), looker(0.1, 0.2)),
    ]
    every, causal = (
        compute_advantages(groups, kind),
        compute_advantages(groups, kind, look_credit="causal"),
    )
    assert torch.equal(every.values, causal.values)
    for row, members in enumerate(causal.turns):
        for member, turns in enumerate(members):
            wanted = every.turns[row][member] if every.turns else [every.values[row, member]] * 2
            assert turns == pytest.approx([float(w) for w in wanted])


def test_causal_credit_adds_up_over_many_groups_to_the_credit_of_episodes():
    """Where look and answer are independent, the answers' expected credit is the same."""
    chances = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 4, 2, generator=chances).tolist()
    groups = [lookers(*(looker(look, right) for look, right in rows)) for rows in draws]
    right = torch.tensor(draws)[..., 1]
    turns = torch.tensor(compute_advantages(groups, "dr_grpo", look_credit="causal").turns)
    pulls = (right - right.mean(dim=1, keepdim=True)) * turns[..., 1]
    every = (right - right.mean(dim=1, keepdim=True)) * turns[..., 0]
    assert float(pulls.mean()) == pytest.approx(float(every.mean()), abs=0.002)
    assert float(pulls.var()) < 0.8 * float(every.var())  # with less variance


def test_causal_credit_names_what_it_lacks():
    with pytest.raises(ValueError, match=r"causal look_credit: expected RolloutGroup.weights"):
        compute_advantages([group(rollout(0.0), rollout(1.0))], look_credit="causal")
    one = rollout(1.0, terms={"accuracy": 1.0})
    with pytest.raises(ValueError, match=r"expected a term 'look', got \['accuracy'\]"):
        compute_advantages([group(one, one, weights={"accuracy": 1.0})], look_credit="causal")
