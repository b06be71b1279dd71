from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.metrics.curves import (
    MISS_FLOOR,
    Ranked,
    envelope_average_precision,
    log_average_miss_rate,
    ranked,
    raw_average_precision,
)

pytestmark = pytest.mark.filterwarnings("error")


def one_image(found, people, images=1):
    count = np.zeros(images, np.int64)
    count[0] = people
    return Ranked(np.zeros(len(found), np.int64), np.array(found, bool), count)


def test_raw_average_precision_of_a_perfect_list_of_four_is_three_quarters():
    # The segment before the first point is not there: 1 - 1/4.
    assert raw_average_precision(one_image([1, 1, 1, 1], 4).curve()) == 0.75
    assert raw_average_precision(one_image([1], 1).curve()) == 0.0


def test_average_precisions_of_a_list_worked_by_hand():
    # TP FP TP of 2 people: recall .5 .5 1, precision 1 1/2 2/3.
    curve = one_image([1, 0, 1], 2).curve()
    # Raw: (.5 - .5) * (1 + 1/2) / 2 + (1 - .5) * (1/2 + 2/3) / 2 = 7/24.
    assert raw_average_precision(curve) == pytest.approx(7 / 24, abs=1e-15)
    # Envelope: .5 * 1 + .5 * 2/3 = 5/6.
    assert envelope_average_precision(curve) == pytest.approx(5 / 6, abs=1e-15)


def test_nothing_detected_earns_no_precision_and_misses_everybody():
    curve = one_image([], 3).curve()
    assert raw_average_precision(curve) == envelope_average_precision(curve) == 0.0
    assert log_average_miss_rate(curve, "caltech").value == 1.0


def test_with_nobody_to_find_nothing_is_defined():
    curve = one_image([0, 0], 0).curve()
    assert raw_average_precision(curve) is envelope_average_precision(curve) is None
    assert log_average_miss_rate(curve, "crowddet").value is None


def test_the_three_rules_read_three_different_points():
    # 10 images, 4 people; FP TP TP FP: fppi .1 .1 .1 .2, miss 1 .75 .5 .5.
    # References <= .0562: no point. caltech: 1. citypersons: the last, .5. crowddet: the first, 1.
    # .1: last with fppi <= .1 is the third, .5 (caltech, citypersons); first with >= .1: 1.
    # .1778: last <= is the third, .5; first >= .1778 is the fourth, .5.
    # .3162 and up: last <= is the fourth, .5; none >=: the last, .5.
    curve = one_image([0, 1, 1, 0], 4, images=10).curve()
    assert log_average_miss_rate(curve, "caltech").value == pytest.approx(0.5 ** (5 / 9))
    assert log_average_miss_rate(curve, "citypersons").value == pytest.approx(0.5)
    assert log_average_miss_rate(curve, "crowddet").value == pytest.approx(0.5 ** (4 / 9))


def test_a_miss_rate_of_zero_is_floored_and_the_floor_is_counted():
    # One image, one person: TP first, fppi 0, miss 0 at every reference.
    rate = log_average_miss_rate(one_image([1], 1).curve(), "caltech")
    assert rate.value == pytest.approx(MISS_FLOOR)
    assert rate.floored == 9


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_an_image_that_counts_zero_times_is_as_if_it_were_not_there(rows, counts):
    image = np.array([row[0] for row in rows], np.int64)
    found = np.array([row[1] for row in rows], bool)
    people = np.bincount(image[found], minlength=4) + 1
    weights = np.array([float(c > 0) for c in counts])
    left = weights[image] > 0
    whole = Ranked(image, found, people).curve(weights)
    part = Ranked(image[left], found[left], people * (weights > 0)).curve()
    assert whole.tp.tolist() == part.tp.tolist()
    assert whole.fp.tolist() == part.fp.tolist()
    assert whole.people == part.people
    assert math.isclose(whole.images, weights.sum())


def test_ranked_sorts_by_rank():
    order = ranked(np.array([0, 1]), np.array([5, 2]), np.array([True, False]), np.array([1, 1]))
    assert order.image.tolist() == [1, 0]
    assert order.found.tolist() == [False, True]
