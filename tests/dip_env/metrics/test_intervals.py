from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.metrics.intervals import Interval, bootstrap, paired, resamples

pytestmark = pytest.mark.filterwarnings("error")


def mean_of(values):
    """Return the mean over images as a function of how often each counts."""
    values = np.asarray(values, dtype=np.float64)
    return lambda counts: {"mean": float(counts @ values / counts.sum())}


def ratio_of(over, under):
    def values(counts):
        divisor = float(counts @ np.asarray(under, dtype=np.float64))
        top = float(counts @ np.asarray(over, dtype=np.float64))
        return {"ratio": top / divisor if divisor else None}

    return values


def excludes_zero(interval):
    return interval.low > 0 or interval.high < 0


def test_interval_of_a_mean_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap(mean_of(values), 400, rounds=4000)["mean"]
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    # Quantiles of 4000 samples are known to about 3 % of the half width.
    assert interval.high - values.mean() == pytest.approx(half, rel=0.08)
    assert values.mean() - interval.low == pytest.approx(half, rel=0.08)


def test_pairing_removes_the_spread_between_images():
    base = np.random.default_rng(0).normal(0, 5, 100)
    gain = paired(mean_of(base), mean_of(base + 0.1), 100)["mean"]
    assert gain.value == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert excludes_zero(gain)
    alone = bootstrap(mean_of(base), 100)["mean"]
    assert alone.high - alone.low > 1
    assert not excludes_zero(alone)


def test_images_weigh_by_what_they_hold():
    # One image with 1 of 1 found, one with 0 of 9: pooled 1/10, not the mean 1/2. A sample holds
    # the first image never, once or twice: 0, 1/10 or 1.
    interval = bootstrap(ratio_of([1, 0], [1, 9]), 2)["ratio"]
    assert interval == Interval(0.1, 0.0, 1.0)


def test_samples_that_do_not_define_the_metric_are_left_out_and_counted():
    # Defined only when the first of two images is drawn: 3 samples in 4.
    interval = bootstrap(ratio_of([1, 0], [2, 0]), 2, rounds=1000)["ratio"]
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    # Binomial(1000, 1/4): sd 13.7.
    assert abs(interval.undefined - 250) < 5 * 13.7


def test_an_undefined_value_keeps_its_reason():
    nothing = ratio_of([0, 0], [0, 0])
    told = bootstrap(nothing, 2, reasons={"ratio": "there was nobody"})["ratio"]
    assert told == Interval(None, None, None, "there was nobody")
    assert bootstrap(nothing, 2)["ratio"].reason
    gain = paired(nothing, ratio_of([1, 1], [2, 2]), 2, reasons={"ratio": "nobody before"})
    assert gain["ratio"] == Interval(None, None, None, "nobody before")


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_have_no_interval(n):
    interval = bootstrap(lambda counts: {"sum": float(counts.sum())}, n)["sum"]
    assert (interval.value, interval.low, interval.high) == (n, None, None)
    assert "two images" in interval.reason
    assert list(resamples(n, 5, 0)) == []


def test_a_value_that_no_sample_defines_has_no_interval():
    def values(counts):
        return {"x": 1.0 if (counts == 1).all() else None}

    interval = bootstrap(values, 50, rounds=20)["x"]
    assert (interval.value, interval.low, interval.high) == (1.0, None, None)
    assert interval.undefined == 20
    assert interval.reason == "no bootstrap sample defines it"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.integers(0, 99))
def test_a_result_does_not_differ_from_itself(values, seed):
    gain = paired(mean_of(values), mean_of(values), len(values), rounds=20, seed=seed)["mean"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


@given(st.integers(2, 30), st.integers(0, 99))
def test_a_sample_holds_as_many_images_as_there_are(n, seed):
    drawn = list(resamples(n, 5, seed))
    assert [sample.sum() for sample in drawn] == [n] * 5
    again = list(resamples(n, 5, seed))
    np.testing.assert_array_equal(drawn, again)
