from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.metrics import breakdown as breakdown_module
from dip_env.metrics.breakdown import break_down
from dip_env.metrics.unscored import measure_unscored

pytestmark = pytest.mark.filterwarnings("error")


def row(heights, first=0.0):
    """Persons of width 10 side by side, 20 apart."""
    return [(first + 20.0 * k, 0.0, 10.0, float(h)) for k, h in enumerate(heights)]


def found_of(people, chosen):
    return [(*people[k], 1.0) for k in chosen]


def test_people_are_grouped_by_height_from_the_lower_end(make_sets):
    people = row([49.9, 50, 74.9, 75, 100, 199, 200])
    found = found_of(people, [0, 2, 3, 6])
    table = break_down(*make_sets([people], [found]))["height"]
    assert table == {
        "<50": {"recall": 1.0, "n": 1},
        "50-75": {"recall": 0.5, "n": 2},
        "75-100": {"recall": 1.0, "n": 1},
        "100-200": {"recall": 0.0, "n": 2},
        ">=200": {"recall": 1.0, "n": 1},
    }


def test_people_are_grouped_by_the_share_of_area_that_is_visible(make_sets):
    people = row([100] * 6)
    shares = [1.0, 0.9, 0.89, 0.65, 0.2, 0.19]
    visible = [(x, y, w, h * share) for (x, y, w, h), share in zip(people, shares, strict=True)]
    found = found_of(people, [0, 2, 3])
    table = break_down(*make_sets([people], [found], visible=[visible]))["visible_share"]
    assert table == {
        "bare": {"recall": 0.5, "n": 2},
        "partial": {"recall": 1.0, "n": 2},
        "heavy": {"recall": 0.0, "n": 1},
        "hidden": {"recall": 0.0, "n": 1},
    }


@pytest.mark.parametrize(
    ("people", "group"),
    [(0, "0"), (1, "1-5"), (5, "1-5"), (6, "6-10"), (10, "6-10"), (11, "11-20"), (20, "11-20"),
     (21, "21-40"), (40, "21-40"), (41, ">40")],
)  # fmt: skip
def test_images_are_grouped_by_their_people(make_sets, people, group):
    table = break_down(*make_sets([row([30] * people)], [[]]))["people_per_image"]
    assert {name: entry["n"] for name, entry in table.items() if entry["n"]} == {group: 1}


def test_precision_recall_and_f1_are_pooled_within_a_group(make_sets):
    # Images of 2 and 4 persons are one group: tp 1 + 2, fp 1 + 0, fn 1 + 2.
    two, four, six = row([30] * 2), row([30] * 4), row([30] * 6)
    found = [
        [*found_of(two, [0]), (900, 900, 9, 9, 1)],
        found_of(four, [0, 1]),
        found_of(six, range(6)),
    ]
    table = break_down(*make_sets([two, four, six], found))["people_per_image"]
    assert table["1-5"] == {
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 6),
        "F1": pytest.approx(6 / 10),
        "n": 2,
    }
    assert table["6-10"] == {"precision": 1.0, "recall": 1.0, "F1": 1.0, "n": 1}
    assert table[">40"] == {"precision": None, "recall": None, "F1": None, "n": 0}


def test_ignored_people_are_in_no_group_and_a_box_without_area_is_no_error(make_sets):
    sets = make_sets([[(0, 0, 10, 0)]], [[(50, 0, 10, 10, 1)]], [[(40, 0, 40, 300)]])
    table = break_down(*sets)
    assert sum(entry["n"] for entry in table["height"].values()) == 1
    assert table["visible_share"]["bare"] == {"recall": 0.0, "n": 1}
    # The one box lies in the region and is dropped, so precision has nothing to divide by.
    assert table["people_per_image"]["1-5"]["precision"] is None


def test_a_score_at_hand_is_not_computed_again(make_sets, monkeypatch):
    people = row([60, 120])
    sets = make_sets([people], [found_of(people, [1])])
    score = measure_unscored(*sets)
    expected = break_down(*sets)
    monkeypatch.delattr(breakdown_module, "measure_unscored")
    assert break_down(*sets, score) == expected


@given(
    st.lists(
        st.lists(st.tuples(st.integers(20, 300), st.booleans()), max_size=9),
        min_size=1,
        max_size=4,
    )
)
def test_groups_add_up_to_the_whole(make_sets, images):
    people = [row([height for height, _ in image]) for image in images]
    found = [
        found_of(rows, [k for k, (_, hit) in enumerate(image) if hit])
        for rows, image in zip(people, images, strict=True)
    ]
    sets = make_sets(people, found)
    table, whole = break_down(*sets), measure_unscored(*sets).values()
    for name in ("height", "visible_share"):
        groups = table[name].values()
        assert sum(entry["n"] for entry in groups) == sum(map(len, images))
        hits = sum(entry["n"] * entry["recall"] for entry in groups if entry["n"])
        assert hits == pytest.approx(whole["tp"])
    assert sum(entry["n"] for entry in table["people_per_image"].values()) == len(images)
    json.dumps(table, allow_nan=False)
