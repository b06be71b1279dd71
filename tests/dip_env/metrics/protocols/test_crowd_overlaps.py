from __future__ import annotations

import pytest

from dip_env.metrics.protocols.crowd_overlaps import compare

pytestmark = pytest.mark.filterwarnings("error")


def test_iou_of_a_half_covered_person_worked_by_hand(make_sets):
    # 100x80 inside 100x100: 8000 / (10000 + 1e-6).
    overlaps = compare(*make_sets([[[0, 0, 100, 100]]], [[[0, 0, 100, 80, 0.9]]]))
    assert overlaps.iou.tolist() == [8000 / (10000 + 1e-6)]
    assert (overlaps.people.a.tolist(), overlaps.people.b.tolist()) == ([0], [0])


@pytest.mark.parametrize(
    ("height", "matches"),
    [
        (50, False),  # exactly .5
        # .5 + 1e-11 of the true union, but 1e-6 in the denominator takes 5e-11 away.
        (50 + 1e-9, False),
        (50.001, True),
    ],
)
def test_a_pair_needs_more_than_half_after_the_denominator_has_grown(make_sets, height, matches):
    overlaps = compare(*make_sets([[[0, 0, 100, 100]]], [[[0, 0, 100, height, 0.9]]]))
    assert (len(overlaps.iou) == 1) == matches


@pytest.mark.parametrize(
    ("inside", "region"), [(50, -1), (50 + 1e-9, -1), (50.001, 0)]
)  # of 100 columns; the same two margins as for pairs
def test_a_region_must_hold_more_than_half_of_a_detection(make_sets, inside, region):
    detection = [100 - inside, 0, 100, 100, 0.9]
    overlaps = compare(*make_sets([[]], [[detection]], [[[0, 0, 100, 100]]]))
    assert overlaps.region.tolist() == [region]


def test_the_first_region_of_the_file_holds_a_detection_even_if_a_later_one_holds_more(make_sets):
    # Region 0 holds 60 of 100 columns, region 1 all of them, and a small one comes too late.
    regions = [[40, 0, 500, 100], [0, 0, 500, 100], [0, 0, 90, 100]]
    overlaps = compare(*make_sets([[]], [[[0, 0, 100, 100, 0.9]]], [regions]))
    assert overlaps.region.tolist() == [0]


def test_x1_stops_a_pixel_before_the_border_and_x2_at_it(make_sets):
    # Image 100x100. Right of it, [120, 170] becomes the last column [99, 100]; the same below.
    # Left of it, [-50, -30] becomes [0, 0], and over the border [90, 130] becomes [90, 100].
    found = [[120, 10, 50, 20, 0.9], [10, 120, 20, 50, 0.9], [-50, 10, 20, 20, 0.9]]
    found += [[90, 10, 40, 20, 0.9]]
    overlaps = compare(*make_sets([[]], [found], size=(100, 100)))
    assert overlaps.corners[0].tolist() == [
        [99, 10, 100, 30],
        [10, 99, 30, 100],
        [0, 10, 0, 30],
        [90, 10, 100, 30],
    ]


def test_boxes_that_share_nothing_can_meet_in_the_last_column(make_sets):
    # Both lie right of a 100x100 image and are clipped to [99, 10, 100, 30]: IoU 20 / (20 + 1e-6).
    person, detection = [150, 10, 30, 20], [120, 10, 20, 20, 0.9]
    overlaps = compare(*make_sets([[person]], [[detection]], size=(100, 100)))
    assert overlaps.iou.tolist() == [20 / (20 + 1e-6)]
    # Left of the image nothing is left to meet.
    person, detection = [-50, 10, 30, 20], [-40, 10, 20, 20, 0.9]
    assert not len(compare(*make_sets([[person]], [[detection]], size=(100, 100))).iou)


def test_a_person_is_in_a_region_by_its_own_area_and_regions_never_are(make_sets):
    people = [[0, 0, 100, 100], [45, 0, 100, 100], [50, 0, 100, 100]]
    # Region [0, 100]: holds all, 55 % and 50 % of them.
    overlaps = compare(*make_sets([people], [[]], [[[0, 0, 100, 100], [0, 0, 50, 50]]]))
    assert overlaps.person_in_region.tolist() == [True, True, False, False, False]


def test_images_do_not_overlap_each_other(make_sets):
    box = [10, 10, 50, 50]
    overlaps = compare(*make_sets([[box], [], [box]], [[], [[*box, 0.9]], []], [[], [], [box]]))
    assert not len(overlaps.iou)
    assert overlaps.region.tolist() == [-1]
    assert overlaps.person_in_region.tolist() == [False, True, False]
