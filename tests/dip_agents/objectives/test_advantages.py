"""Advantages compare siblings; golden values are worked by hand."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.objectives.advantages import (
    SCALES,
    group_advantages,
    register_advantage,
    term_part,
)
from dip_agents.objectives.choices import AdvantageKind

KINDS = ["grpo", "dr_grpo", "batch_std", "rloo", "gigpo"]
EVERY = [*KINDS, "gdpo"]
WEIGHTS = [0.1, 0.3, 0.6]


def by_hand(rewards, kind, terms=None, weights=None, eps=1e-4):
    """The equations in numpy, one rollout at a time."""
    found = np.zeros(rewards.shape)
    for p, g in np.ndindex(*rewards.shape):
        group, own = rewards[p], rewards[p, g]
        if kind in ("grpo", "gigpo"):
            found[p, g] = (own - group.mean()) / (group.std(ddof=1) + eps)
        elif kind == "dr_grpo":
            found[p, g] = own - group.mean()
        elif kind == "batch_std":
            found[p, g] = (own - group.mean()) / (rewards.std(ddof=1) + eps)
        elif kind == "rloo":
            found[p, g] = own - np.delete(group, g).mean()
        else:
            scaled = (terms[p, g] - terms[p].mean(0)) / (terms[p].std(0, ddof=1) + eps)
            found[p, g] = sum(w * z for w, z in zip(weights, scaled, strict=True))
    return (found - found.mean()) / (found.std(ddof=1) + eps) if kind == "gdpo" else found


def play(seed, scenes=3, members=4):
    """Rewards and their terms; whole numbers, so that groups of equal rewards occur."""
    terms = np.random.default_rng(seed).integers(0, 3, (scenes, members, 3)).astype(float)
    return terms @ np.array(WEIGHTS), terms


def advantages(rewards, kind, terms=None, weights=WEIGHTS):
    """Call with terms where the kind wants some."""
    if kind != "gdpo":
        return group_advantages(torch.as_tensor(rewards), kind)
    terms = torch.as_tensor(terms)
    return group_advantages(torch.as_tensor(rewards), kind, terms_P_G_K=terms, term_weights=weights)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("seed", range(5))
def test_every_kind_equals_its_equation(seed, kind):
    rewards, terms = play(seed)
    wanted = by_hand(rewards, kind, terms, WEIGHTS)
    np.testing.assert_allclose(advantages(rewards, kind, terms).values.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", EVERY)
@given(seed=st.integers(0, 10_000), data=st.data())
@settings(deadline=None, max_examples=20)
def test_neither_the_order_of_siblings_nor_that_of_scenes_matters(kind, seed, data):
    rewards, terms = play(seed)
    scenes, members = (data.draw(st.permutations(range(n))) for n in rewards.shape)
    before = advantages(rewards, kind, terms)
    after = advantages(rewards[scenes][:, members], kind, terms[scenes][:, members])
    torch.testing.assert_close(after.values, before.values[scenes][:, members], atol=1e-6, rtol=0)
    assert torch.equal(after.informative, before.informative[scenes])


@pytest.mark.parametrize(("kind", "power"), [(k, int(k in ("dr_grpo", "rloo"))) for k in EVERY])
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([2.0, 8.0]))
@settings(deadline=None, max_examples=20)
def test_rewards_in_another_unit_scale_the_unscaled_kinds_and_leave_the_others(
    kind, power, seed, factor
):
    rewards, terms = play(seed)
    before = advantages(rewards, kind, terms).values
    after = advantages(rewards * factor, kind, terms * factor).values
    # eps is in units of reward, so that the scaled kinds move by a part in a thousand.
    torch.testing.assert_close(after, before * factor**power, atol=2e-3, rtol=2e-3)


@given(seed=st.integers(0, 10_000), weight=st.floats(0.1, 10))
@settings(deadline=None, max_examples=20)
def test_gdpo_reads_only_the_proportions_of_the_weights(seed, weight):
    rewards, terms = play(seed)
    before = advantages(rewards, "gdpo", terms).values
    after = advantages(rewards, "gdpo", terms, [weight * w for w in WEIGHTS]).values
    torch.testing.assert_close(after, before, atol=3e-3, rtol=3e-3)


def test_gdpo_hears_a_quiet_term_beside_a_loud_one():
    # Terms differ by 1 and by 0.01, in opposite directions: with equal weights they weigh the same.
    terms = np.array([[[0.0, 0.01], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.01]]])
    found = advantages(terms.sum(-1), "gdpo", terms, [1.0, 1.0])
    torch.testing.assert_close(found.values[0], torch.zeros(2), atol=0.02, rtol=0)
    assert found.values[1, 1] > 0.5


def test_gdpo_finds_a_group_mixed_whose_terms_cancel_and_ignores_terms_without_weight():
    terms = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    total = terms.sum(-1)
    assert not group_advantages(torch.tensor(total)).informative.any()
    assert advantages(total, "gdpo", terms, [1.0, 1.0]).informative.all()
    assert not advantages(total, "gdpo", terms * [0.0, 1.0], [1.0, 0.0]).informative.any()


def test_rloo_compares_with_the_mean_of_the_others():
    found = group_advantages(torch.tensor([[1.0, 2.0, 6.0]]), "rloo")
    assert found.values.tolist() == [[-3.0, -1.5, 4.5]]


def test_grpo_divides_by_the_unbiased_deviation_of_the_group():
    # mean 2, squared distances 1 + 0 + 1, over G - 1 = 2: deviation 1.
    found = group_advantages(torch.tensor([[1.0, 2.0, 3.0]]), "grpo", eps=0.0)
    assert found.values.tolist() == [[-1.0, 0.0, 1.0]]
    assert found.informative.tolist() == [True]


def test_dr_grpo_only_subtracts_the_mean_of_the_group():
    found = group_advantages(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]), "dr_grpo")
    assert found.values.tolist() == [[-1.0, 0.0, 1.0], [-2.0, -2.0, 4.0]]


def test_batch_std_divides_by_the_unbiased_deviation_of_all_rewards():
    # rewards 0 1 0 0: mean 1/4, squared distances 3/16 + 9/16 = 3/4, over 3: deviation 1/2.
    found = group_advantages(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "batch_std", eps=0.0)
    assert found.values.tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    assert found.informative.tolist() == [True, False]


def test_eps_bounds_the_advantage_of_a_tiny_difference():
    found = group_advantages(torch.tensor([[0.5, 0.50001]]), "grpo", eps=1e-4)
    assert found.values.abs().max() < 0.1


@pytest.mark.grpo_property(3)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_give_exactly_zero_and_are_not_informative(kind):
    rounding = 0.1 + 0.2  # is not 0.3 in floating point
    rewards = torch.tensor([[0.3, rounding, 0.3], [0.0, 1.0, 1.0]], dtype=torch.float64)
    found = group_advantages(rewards, kind)
    assert found.informative.tolist() == [False, True]
    assert torch.equal(found.values[0], torch.zeros(3))
    assert found.values[1].abs().min() > 0


@pytest.mark.grpo_property(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_rollout_has_no_advantage(kind):
    found = group_advantages(torch.tensor([[0.7]]), kind)
    assert found.values.tolist() == [[0.0]]
    assert found.informative.tolist() == [False]


rewards_lists = st.integers(2, 6).flatmap(
    lambda g: st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=g, max_size=g), min_size=1, max_size=5
    )
)


@pytest.mark.grpo_property(3)
@settings(deadline=None)  # the first call loads kernels
@given(rewards=rewards_lists, kind=st.sampled_from(KINDS))
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(rewards, kind):
    rewards = torch.tensor(rewards)
    found = group_advantages(rewards, kind)
    torch.testing.assert_close(found.values.sum(1), torch.zeros(len(rewards)), atol=1e-4, rtol=0)
    for row in torch.nonzero(found.informative).flatten():
        assert found.values[row, rewards[row].argmax()] == found.values[row].max() > 0


@settings(deadline=None)  # the first call loads kernels
@given(rewards=rewards_lists, kind=st.sampled_from(KINDS), shift=st.integers(-4, 4))
def test_a_constant_added_to_all_rewards_changes_nothing(rewards, kind, shift):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    before, after = group_advantages(rewards, kind), group_advantages(rewards + shift, kind)
    if torch.equal(
        before.informative, after.informative
    ):  # a spread right at the tolerance may tip over
        torch.testing.assert_close(before.values, after.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("rewards", "kind", "message"),
    [
        (torch.zeros(3), "grpo", r"expected shape \(P, G\), got \(3,\)"),
        (torch.zeros(0, 2), "grpo", r"expected shape \(P, G\), got \(0, 2\)"),
        (torch.tensor([[0.0, float("nan")]]), "grpo", "expected finite numbers"),
        (torch.zeros(1, 2), "gdpo", "terms: expected terms and their weights for gdpo"),
        (torch.zeros(1, 2), "ppo", "expected one of .*'dr_grpo'.*got 'ppo'"),
    ],
)
def test_bad_input_is_named(rewards, kind, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, kind)


def test_terms_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"terms: expected shape \(1, 2, 2\), got \(1, 2, 3\)"):
        group_advantages(
            torch.zeros(1, 2), "gdpo", terms_P_G_K=torch.zeros(1, 2, 3), term_weights=[1, 1]
        )
    with pytest.raises(ValueError, match="terms: expected finite numbers"):
        group_advantages(
            torch.zeros(1, 1),
            "gdpo",
            terms_P_G_K=torch.full((1, 1, 1), torch.nan),
            term_weights=[1],
        )


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("seed", range(5))
def test_the_parts_of_all_terms_add_up_to_the_advantage(seed, kind):
    rewards, terms = play(seed)
    parts = [term_part(torch.as_tensor(terms), WEIGHTS, k, kind) for k in range(3)]
    wanted = advantages(rewards, kind, terms).values
    torch.testing.assert_close(sum(parts), wanted, atol=1e-5, rtol=1e-5)


def test_a_part_is_the_difference_in_its_term_on_the_scale_of_the_reward():
    # Rewards 0.5 and 0.1, weights 0.5: half of the first term, +-0.1, and of the second, +-0.3.
    terms = torch.tensor([[[0.2, 0.8], [0.0, 0.2]]])
    assert term_part(terms, [0.5, 0.5], 0, "dr_grpo").tolist()[0] == pytest.approx([0.05, -0.05])
    assert term_part(terms, [0.5, 0.5], 1, "dr_grpo").tolist()[0] == pytest.approx([0.15, -0.15])
    equal = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # what one term gives the other takes
    assert term_part(equal, [0.5, 0.5], 0, "grpo").tolist() == [[0.0, 0.0]]


def test_every_choice_is_registered_and_so_is_what_a_user_adds(monkeypatch):
    assert {*SCALES, "gdpo"} == set(get_args(AdvantageKind))
    monkeypatch.setitem(SCALES, "doubled", None)  # undone after the test

    @register_advantage("doubled")
    def doubled(differences, rewards, eps):
        return 2 * differences

    found = group_advantages(torch.tensor([[0.0, 1.0]]), "doubled")
    assert found.values.tolist() == [[-1.0, 1.0]]
