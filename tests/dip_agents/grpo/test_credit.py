"""From what rollouts earned to their advantages."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dip_agents.grpo.batch import training_batch
from dip_agents.grpo.branches import Branch
from dip_agents.grpo.credit import branch_rewards, compute_advantages, turn_rewards
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.objectives.advantages import group_advantages
from dip_agents.objectives.regions import region_advantages
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.errors import ConfigError
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


def region_lookers(*gains, weights=LOOKER_WEIGHTS):
    """Return a group whose members look and answer in one turn each, and look at some regions."""
    members = []
    for number, found in enumerate(gains):
        member = looker(sum(found), 0.1 * number)
        stats = replace(member.stats, regions=len(found), look_gains=found)
        members.append(replace(member, stats=stats))
    return group(*members, weights=weights)


def test_credit_of_regions_is_that_of_the_turns_but_for_what_each_region_adds():
    groups = [region_lookers((0.3, 0.0), (0.1, 0.4)), region_lookers((0.2,), (0.2,))]
    causal = compute_advantages(groups, "dr_grpo", look_credit="causal")
    got = compute_advantages(groups, "dr_grpo", look_credit="regions")
    assert got.turns == causal.turns
    assert torch.equal(got.values, causal.values)
    assert got.regions == region_advantages([[(0.3, 0.0), (0.1, 0.4)], [(0.2,), (0.2,)]])


def test_regions_alone_make_a_group_informative():
    """Here the gains of the two regions differ and cancel, and both members answer alike."""
    one, other = region_lookers((0.3, 0.1), (0.1, 0.3)).rollouts
    alike = replace(other, reward=one.reward, terms=one.terms)
    groups = [lookers(one, alike)]
    assert not compute_advantages(groups, look_credit="causal").informative.any()
    assert compute_advantages(groups, look_credit="regions").informative.all()


def test_regions_keep_the_credit_of_their_turn_while_the_look_term_has_no_weight():
    groups = [region_lookers((0.3,), (0.1,), weights={"look": 0.0, "accuracy": 1.0})]
    got = compute_advantages(groups, "dr_grpo", look_credit="regions")
    assert got.regions is None
    assert got.turns == compute_advantages(groups, "dr_grpo", look_credit="causal").turns


def test_credit_of_regions_names_what_it_lacks():
    member = region_lookers((0.3, 0.1)).rollouts[0]
    lacking = replace(member, stats=replace(member.stats, look_gains=()))
    with pytest.raises(ValueError, match=r"expected the gain of every region.*measure_regions"):
        compute_advantages([lookers(lacking, lacking)], look_credit="regions")


def test_causal_credit_names_what_it_lacks():
    with pytest.raises(ValueError, match=r"look_credit: expected RolloutGroup.weights"):
        compute_advantages([group(rollout(0.0), rollout(1.0))], look_credit="causal")
    one = rollout(1.0, terms={"accuracy": 1.0})
    with pytest.raises(ValueError, match=r"expected a term 'look', got \['accuracy'\]"):
        compute_advantages([group(one, one, weights={"accuracy": 1.0})], look_credit="causal")


def causal_reference(looks, accuracies, weight, left):
    """Return [member][turn] of rloo with causal credit, loop by loop; ``left`` is of each turn."""
    found = []
    for one in range(len(looks)):
        others = [k for k in range(len(looks)) if k != one]
        accuracy = accuracies[one] - np.mean([accuracies[k] for k in others])
        look = looks[one] - np.mean([looks[k] for k in others])
        found.append(
            [(1 - weight) * accuracy + (weight * look if turn else 0.0) for turn in left[one]]
        )
    return found


def test_causal_credit_is_that_of_the_reference():
    rng = np.random.default_rng(0)
    looks, accuracies = rng.random(4), rng.random(4)
    left = [(1, 0), (2, 1, 0), (1,), (0,)]
    members = [looker(*pair) for pair in zip(looks, accuracies, left, strict=True)]
    got = compute_advantages([lookers(*members)], "rloo", look_credit="causal").turns[0]
    for found, wanted in zip(got, causal_reference(looks, accuracies, 0.5, left), strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("credit", ["episode", "causal"])
def test_the_expected_gradient_is_that_of_the_reward_with_either_credit_of_looks(credit):
    """All groups of two rollouts of a policy with three looks and three answers to each.

    Rewards are multiples of 1/64, so that float32 holds the advantages exactly.
    """
    look = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    answer = torch.tensor(
        [[0.5, 0.0, -0.5], [1.0, 0.2, 0.1], [-0.3, 0.4, 0.6]],
        dtype=torch.float64,
        requires_grad=True,
    )
    terms = torch.tensor([0.75, 0.25, 0.5], dtype=torch.float64)
    table = torch.arange(9, dtype=torch.float64).reshape(3, 3).flip(1) ** 2 % 16 / 16
    chance_look, chance_answer = torch.softmax(look, 0), torch.softmax(answer, 1)
    look_chances, answer_chances = chance_look.detach().numpy(), chance_answer.detach().numpy()
    rollouts = []
    for where, said, noise in itertools.product(range(3), range(3), (-0.25, 0.25)):
        chance = look_chances[where] * answer_chances[where, said] / 2
        scores = np.zeros((2, 3, 3))
        scores[0, 0] = (np.arange(3) == where) - look_chances
        scores[1, where] = (np.arange(3) == said) - answer_chances[where]
        member = looker(float(terms[where]), float(table[where, said]) + noise)
        rollouts.append((chance, scores, member))
    pairs = list(itertools.product(rollouts, repeat=2))
    groups = [lookers(*(member for _, _, member in pair)) for pair in pairs]
    got = compute_advantages(groups, "rloo", look_credit=credit)
    gradient = np.zeros((2, 3, 3))
    for row, pair in enumerate(pairs):
        for member, (_, scores, _) in enumerate(pair):
            turns = got.turns[row][member] if got.turns else [float(got.values[row, member])] * 2
            weight = pair[0][0] * pair[1][0] / 2
            gradient += weight * np.array(turns)[:, None, None] * scores
    after_look = 0.5 * terms + 0.5 * (chance_answer * table).sum(dim=1)
    true = torch.autograd.grad((chance_look * after_look).sum(), (look, answer))
    np.testing.assert_allclose(gradient[0, 0], true[0], atol=1e-10)
    np.testing.assert_allclose(gradient[1], true[1], atol=1e-10)
    assert float(true[0].abs().max()) > 0.01


def test_causal_credit_hears_answers_where_terms_cancel_to_equal_rewards():
    # The better look came with the worse answer: each answer is compared by accuracy alone.
    group = lookers(looker(1.0, 0.0), looker(0.0, 1.0))
    got = compute_advantages([group], "rloo", look_credit="causal")
    assert got.informative.tolist() == [True]
    assert got.turns[0] == [[0.0, -0.5], [0.0, 0.5]]
    # A deviation of 0 tells nobody how much that is.
    for kind in ("grpo", "batch_std", "gigpo"):
        silent = compute_advantages([group], kind, look_credit="causal", turn_weight=0.0)
        assert silent.turns[0] == [[0.0, 0.0], [0.0, 0.0]]
        assert silent.informative.tolist() == [False]


def sharing(look, answer, *, terms, left=(1, 0), looked=True, blank=False):
    """A rollout of two turns that shares its first with the other answers to its look."""
    one = looker(*terms, left=left if looked else left[:1])
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1])
    buffer.append_policy([4, 4], [-1.0, -1.0])
    if looked:
        buffer.append_env([1])
        buffer.append_policy([5], [-1.0])
    branch = Branch(look, answer, turns=1, tokens=4 if looked else 3, looked=looked, blank=blank)
    return replace(one, buffer=buffer, branch=branch)


def shared(*looks, blank=0):
    """A group of branches, each a list of (look term, accuracy)."""
    return lookers(
        *(
            sharing(look, k, terms=pair, blank=k >= len(pairs) - blank)
            for look, pairs in enumerate(looks)
            for k, pair in enumerate(pairs)
        )
    )


def test_turns_up_to_the_fork_have_the_looks_advantage_and_later_ones_the_answers():
    # Rewards 0.7, 0.5 | 0.3, 0.3: means 0.6 and 0.3; times 3/4 as differences to the mean.
    group = shared([(0.2, 1.2), (0.2, 0.8)], [(0.0, 0.6), (0.0, 0.6)])
    got = compute_advantages([group], "dr_grpo")
    assert got.turns[0][0] == pytest.approx([0.225, 0.15])
    assert got.turns[0][1] == pytest.approx([0.225, -0.15])
    assert got.turns[0][2] == got.turns[0][3] == pytest.approx([-0.225, 0.0])
    assert got.values[0].tolist() == pytest.approx([0.375, 0.075, -0.225, -0.225])
    batch = training_batch([group], got)
    assert batch.advantages[0].tolist() == pytest.approx([0.0, 0.225, 0.225, 0.0, 0.15])


def test_a_branch_without_a_fork_is_one_sample_with_the_looks_advantage():
    direct = [sharing(1, k, terms=(0.0, 0.2), looked=False) for k in range(2)]
    looked = [sharing(0, k, terms=(0.0, a)) for k, a in enumerate((1.0, 0.6))]
    got = compute_advantages([lookers(*looked, *direct)], "rloo")
    assert got.turns[0][2] == got.turns[0][3] == pytest.approx([-0.3])  # 0.1 - 0.4
    assert got.turns[0][0] == pytest.approx([0.3, 0.2])


def test_a_single_look_term_cancels_among_the_answers_to_it():
    group = shared([(0.9, 1.0), (0.9, 0.5)], [(0.1, 0.25), (0.1, 0.0)])
    every = compute_advantages([group], "batch_std")
    causal = compute_advantages([group], "batch_std", look_credit="causal")
    for one, other in zip(every.turns[0], causal.turns[0], strict=True):
        assert one == pytest.approx(other)


def test_causal_credit_takes_the_look_term_from_answers_that_are_compared_over_looks():
    # One real and one blank answer to each look: both are compared with those of other looks, whose
    # look terms differ by 0.4. Without these the real ones differ by 0.5 in reward, the blank 0.25.
    group = shared([(0.8, 1.0), (0.8, 0.5)], [(0.0, 0.0), (0.0, 0.0)], blank=1)
    answers = {
        credit: [
            turns[1] for turns in compute_advantages([group], "rloo", look_credit=credit).turns[0]
        ]
        for credit in ("episode", "causal")
    }
    assert answers["episode"] == pytest.approx([0.9, 0.65, -0.9, -0.65])
    assert answers["causal"] == pytest.approx([0.5, 0.25, -0.5, -0.25])


def test_blank_answers_give_the_look_what_its_crops_bring():
    group = shared([(0.2, 1.0), (0.2, 0.4)], [(0.2, 0.6), (0.2, 0.6)], blank=1)
    found = branch_rewards([group])
    assert found.blank == 1
    assert found.accuracy[0].tolist() == [[0.5, 0.2], [0.3, 0.3]]
    got = compute_advantages([group], "rloo")
    assert [turns[0] for turns in got.turns[0]] == pytest.approx([0.3, 0.3, -0.3, -0.3])


def test_a_group_with_branches_is_informative_where_looks_or_answers_differ():
    alike = [(0.5, 0.5)] * 2
    groups = [shared(alike, alike), shared(alike, [(0.5, 0.4), (0.5, 0.6)])]
    got = compute_advantages(groups, "batch_std", look_credit="causal")
    assert got.informative.tolist() == [False, True]
    assert not any(value for turns in got.turns[0] for value in turns)


def test_branches_need_a_kind_that_compares_them_and_all_members():
    group = shared([(0.5, 0.5), (0.5, 0.5)], [(0.5, 0.5), (0.5, 0.1)])
    with pytest.raises(ConfigError, match=r"with branches, got 'gigpo'"):
        compute_advantages([group], "gigpo")
    group.rollouts[1] = replace(group.rollouts[1], branch=None)
    with pytest.raises(ValueError, match="expected all of them or none to have a branch"):
        compute_advantages([group], "rloo")
