"""What each region is credited with."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.objectives.regions import region_advantages

gain = st.floats(-1, 1, width=32)
batches = st.lists(st.lists(st.lists(gain, max_size=3), min_size=2, max_size=4), min_size=1)


def reference(gains, eps=1e-4):
    """Return the advantages of (P, G, R) gains of rollouts with as many regions."""
    gains = np.asarray(gains)
    differences = gains - gains.mean(axis=1, keepdims=True)
    return differences / (differences.std(ddof=1) + eps)


def test_gains_are_compared_with_those_of_the_same_number():
    # Means of the first regions .2, of the second .4; differences +-.1, +-.4: std sqrt(.34 / 3).
    (got,) = region_advantages([[[0.3, 0.0], [0.1, 0.8]]], weight=2.0, eps=0.0)
    deviation = np.sqrt(0.34 / 3) / 2
    assert got[0] == pytest.approx([0.1 / deviation, -0.4 / deviation])
    assert got[1] == pytest.approx([-0.1 / deviation, 0.4 / deviation])


def test_advantages_are_those_of_the_reference():
    gains = np.random.default_rng(0).random((3, 4, 2))
    np.testing.assert_allclose(region_advantages(gains.tolist()), reference(gains), atol=1e-12)


def test_a_region_whose_number_no_sibling_has_is_not_credited():
    (got,) = region_advantages([[[0.5, 0.5], [0.1], []]])
    assert got[0][1] == 0.0
    assert got[0][0] > 0
    assert got[0][0] == pytest.approx(-got[1][0])
    assert got[2] == []


def test_without_regions_there_is_nothing_to_credit():
    assert region_advantages([[[], []]]) == [[[], []]]


@settings(deadline=None)
@given(batches)
def test_advantages_of_one_number_in_one_group_add_up_to_nothing(gains):
    for group in region_advantages(gains):
        for number in range(max(map(len, group), default=0)):
            known = [member[number] for member in group if len(member) > number]
            assert sum(known) == pytest.approx(0, abs=1e-6 * (1 + max(map(abs, known))))


@settings(deadline=None)
@given(batches, st.integers(2, 9))
def test_the_unit_of_gains_does_not_matter(gains, factor):
    scaled = [[[factor * g for g in member] for member in group] for group in gains]
    got = region_advantages(scaled, eps=1e-30)
    for found, wanted in zip(got, region_advantages(gains, eps=1e-30), strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, rel=1e-6, abs=1e-6)


def test_the_expected_gradient_is_that_of_greedy_choices():
    """All pairs of rollouts with two regions out of three places; the second knows the first.

    Gains are the people that a place shows and earlier regions do not: 3, 2 and 2, with one shared
    by the last two places.
    """
    people = [{0, 1, 2}, {3, 4}, {4, 5}]
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=3), rng.normal(size=(3, 3))

    def chances(logits):
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def rollouts():
        for a, b in itertools.product(range(3), repeat=2):
            p, q = chances(first), chances(second[a])
            scores = np.zeros((2, 3, 3))
            scores[0, 0] = (np.arange(3) == a) - p
            scores[1, a] = (np.arange(3) == b) - q
            yield p[a] * q[b], scores, [len(people[a]), len(people[b] - people[a])]

    def greedy(move, size=1e-5):
        """Return the change of E[first gain] + E[second gain], the chance of the first fixed."""
        p = chances(first + size * move[0, 0])
        fixed = chances(first)
        total = sum(p[a] * len(people[a]) for a in range(3))
        for a in range(3):
            q = chances(second[a] + size * move[1, a])
            total += fixed[a] * sum(q[b] * len(people[b] - people[a]) for b in range(3))
        return total

    pairs = list(itertools.product(rollouts(), repeat=2))
    gains = [[one[2] for one in pair] for pair in pairs]
    # One group at a time would be scaled by its own deviation: all pairs are one batch.
    advantages = region_advantages(gains, eps=0.0)
    gradient = np.zeros((2, 3, 3))
    for pair, members in zip(pairs, advantages, strict=True):
        for (_, scores, _), (early, late) in zip(pair, members, strict=True):
            chance = pair[0][0] * pair[1][0]
            gradient[0] += chance * early * scores[0]
            gradient[1] += chance * late * scores[1]
    true = np.zeros((2, 3, 3))
    for place in np.ndindex(2, 3, 3):
        if place[0] == 0 and place[1] > 0:
            continue
        move = np.zeros((2, 3, 3))
        move[place] = 1.0
        true[place] = (greedy(move) - greedy(-move)) / 2e-5
    # First regions have the exact direction; of second ones only siblings with as many count.
    scale = gradient[0, 0] @ true[0, 0] / (true[0, 0] @ true[0, 0])
    np.testing.assert_allclose(gradient[0, 0], scale * true[0, 0], atol=1e-6)
    np.testing.assert_allclose(gradient[1], scale * true[1], atol=1e-6)
    assert scale > 0
