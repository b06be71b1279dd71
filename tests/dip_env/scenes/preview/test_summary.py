from __future__ import annotations

import json

import pytest

from dip_env.scenes import CocoScenes
from dip_env.scenes.preview.summary import histogram, summarise


def test_a_value_at_a_limit_belongs_to_the_bin_above_it():
    assert histogram([0, 4.9, 5, 10, 99], (5, 10)) == {"0-5": 2, "5-10": 1, ">=10": 2}
    assert histogram([], (5, 10)) == {"0-5": 0, "5-10": 0, ">=10": 0}


def test_bins_of_whole_numbers_are_named_by_first_and_last():
    assert histogram([0, 1, 5, 6], (1, 6), whole=True) == {"0": 1, "1-5": 2, ">=6": 1}


def test_toy_scenes_are_counted_as_documented(toy):
    found = summarise(toy, range(4))
    assert (found["images"], found["people"], found["ignored"]) == (4, 6, 1)
    assert found["empty_images"] == 1
    assert found["sizes"] == {"640x480": 4}
    # Two people of scene 1: one seen by half, one bare; the others are bare.
    assert found["visible_share"] == {"0-0.2": 0, "0.2-0.65": 1, "0.65-0.9": 0, ">=0.9": 5}
    assert "counts" not in found
    json.dumps(found, allow_nan=False)


@pytest.fixture
def source(write_coco):
    boxes = [[0, 0, 20, 60], [30, 0, 20, 30]]
    rows = [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes]
    rows[1]["iscrowd"] = 1
    images = [{"id": k, "file_name": f"{k}.png", "width": 100, "height": 80} for k in range(3)]
    return CocoScenes(write_coco(rows, images=images))


def test_a_table_is_counted_as_its_scenes_are(source):
    class Opened:
        """The same scenes without the table."""

        counts = source.counts

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            return source[index]

        def __repr__(self):
            return repr(source)

    for indices in (range(3), [1], [2, 1], [0]):
        table, opened = summarise(source, indices), summarise(Opened(), indices)
        # A table knows that nobody said who is seen; scenes take all to be seen.
        assert table.pop("visible_share") is table["images_turned"] is None
        assert sum(opened.pop("visible_share").values()) == opened["people"]
        assert table == opened


def test_missing_images_are_counted_and_annotations_all_the_same(source):
    (source.images / "1.png").unlink()
    found = summarise(source, range(3))
    assert (found["images_missing"], found["sizes"]) == (1, {"100x80": 2})
    assert (found["people"], found["ignored"]) == (1, 1)
    assert found["counts"]["instances"] == 2
