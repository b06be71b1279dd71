from __future__ import annotations

import numpy as np
import pytest


def test_metrics_are_pooled_over_scenes(load, columns):
    stats = load("report.stats")
    # Scene 1: 2 of 3 people found with 4 boxes; scene 2: 0 of 1 with none.
    found = columns(tp=(2, 0), counted=(4, 0), people=(3, 1), boxes=(5, 0), looks=(1, 0))
    runs = {None: found}
    assert stats.value("precision", runs).value == 2 / 4
    assert stats.value("recall", runs).value == 2 / 4
    assert stats.value("F1", runs).value == 2 * 2 / (4 + 4)
    assert stats.value("boxes", runs).value == 5 / 2  # of the answer, dropped ones too
    assert stats.value("boxes_per_person", runs).value == 4 / 4
    assert stats.value("looks", runs).value == 1 / 2


def test_f1_over_thresholds_is_the_mean_of_their_f1(load, columns):
    stats = load("report.stats")
    found = columns(tp=((2, 1),), counted=((2, 2),), people=(2,))
    assert stats.value("F1", {None: found}).value == 1.0
    assert stats.value("F1_50_95", {None: found}).value == (1.0 + 0.5) / 2


def test_a_value_is_the_mean_over_seeds_and_its_interval_draws_them(load, columns):
    stats = load("report.stats")
    # Every scene of a seed is alike: only which seeds are drawn can move the mean.
    none, all_ = columns((0, 0, 0), (1, 1, 1), (1, 1, 1)), columns((1, 1, 1), (1, 1, 1), (1, 1, 1))
    found = stats.value("F1", {0: none, 1: all_})
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    same = stats.value("F1", {0: all_, 1: all_})
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_a_mean_is_that_of_the_binomial(load, columns):
    stats = load("report.stats")
    half = columns(*[(0, 1) * 50, (1,) * 100, (1,) * 100])
    found = stats.value("recall", {None: half})
    assert found.value == 0.5
    # 100 draws with p = 1/2: 0.5 +- 1.96 * 0.05.
    assert found.low == pytest.approx(0.402, abs=0.015)
    assert found.high == pytest.approx(0.598, abs=0.015)


def test_scenes_being_easy_or_hard_cancels_in_pairs(load, columns):
    stats = load("report.stats")
    before = columns((0,) * 4, (0,) * 4, (1,) * 4, boxes=(0, 10, 20, 90))
    after = columns((0,) * 4, (0,) * 4, (1,) * 4, boxes=(1, 11, 21, 91))
    gain = stats.difference("boxes", {None: before}, {0: after})
    assert (gain.value, gain.low, gain.high) == (1.0, 1.0, 1.0)
    assert stats.value("boxes", {0: after}).high - stats.value("boxes", {0: after}).low > 20


def test_seeds_are_drawn_in_pairs(load, columns):
    stats = load("report.stats")
    low, high = columns(boxes=(1,)), columns(boxes=(5,))
    more = {0: columns(boxes=(2,)), 1: columns(boxes=(6,))}
    # One scene twice, so that there is something to draw.
    twice = [{k: np.concatenate([v, v]) for k, v in c.items()} for c in (low, high, *more.values())]
    gain = stats.difference("boxes", {0: twice[0], 1: twice[1]}, {0: twice[2], 1: twice[3]})
    assert (gain.value, gain.low, gain.high) == (1.0, 1.0, 1.0)


def test_only_seeds_that_both_variants_have_are_compared(load, columns):
    stats = load("report.stats")
    one, two, nine = (columns((1, 1), (1, 1), (1, 1), boxes=(n, n)) for n in (1, 2, 9))
    assert stats.difference("boxes", {0: one}, {0: two, 1: nine}).value == 1.0
    assert stats.difference("boxes", {None: one}, {0: two, 1: nine}).value == 4.5
    none = stats.difference("boxes", {0: one}, {1: two})
    assert none.value is None and "no seed" in none.reason


def test_what_is_not_defined_has_no_value(load, columns):
    stats = load("report.stats")
    silent = columns((0, 0), (0, 0), (1, 1))
    assert stats.value("precision", {None: silent}).value is None
    assert stats.value("F1", {None: silent}).value == 0.0
    assert np.isnan(stats.per_seed("precision", {3: silent})[3])
    single = stats.value("F1", {None: columns()})
    assert (single.value, single.low) == (1.0, None)


def test_the_f1_of_an_empty_scene_is_1_without_boxes_and_0_with(load, columns):
    f1 = load("report.stats").per_scene_f1(columns((0, 0, 1), (0, 1, 1), (0, 0, 2)))
    assert f1.tolist() == [1.0, 0.0, 2 / 3]


def test_intervals_overlap_where_they_share_a_point(load):
    stats = load("report.stats")
    interval = stats.Interval
    assert stats.overlap(interval(0.5, 0.4, 0.6), interval(0.7, 0.6, 0.8)) is True
    assert stats.overlap(interval(0.7, 0.61, 0.8), interval(0.5, 0.4, 0.6)) is False
    assert stats.overlap(interval(0.7, None, None), interval(0.5, 0.4, 0.6)) is None
