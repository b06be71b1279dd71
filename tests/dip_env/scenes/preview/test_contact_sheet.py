"""The contact sheet shows every scene with its boxes, legibly, on one page."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dip_env.errors import ConfigError
from dip_env.scenes import ProceduralCrowd, Scene, ToyScenes
from dip_env.scenes.preview.contact_sheet import FULL, IGNORED, VISIBLE, contact_sheet


def has(page: Image.Image, colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> int:
    """How many pixels of a part of the page have exactly that colour."""
    return int((np.asarray(page.crop(box)) == colour).all(axis=-1).sum())


class One:
    """A source of one black scene with the given boxes."""

    def __init__(
        self, boxes: list, visible: list, ignore: list, size: tuple[int, int] = (200, 100)
    ) -> None:
        self.size = size
        self.fields = {
            "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
            "visible_boxes": np.array(visible, dtype=np.float32).reshape(-1, 4),
            "visible_share": np.ones(len(boxes), dtype=np.float32),
            "ignore": np.array(ignore, dtype=bool),
            "labels": ("person",) * len(boxes),
        }

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Scene:
        if index != 0:
            raise IndexError(index)
        return Scene("one", self.size, load_image=lambda: Image.new("RGB", self.size),
                     **self.fields)  # fmt: skip


CELL = (8, 38, 208, 138)
"""Where a scene 200 wide lies on a page of one cell."""


def test_a_page_has_as_many_columns_and_rows_as_needed() -> None:
    source = ToyScenes()
    one = contact_sheet(source, [0], columns=3, width=160)
    row = contact_sheet(source, [0, 1, 2], columns=3, width=160)
    two_rows = contact_sheet(source, [0, 1, 2, 3], columns=3, width=160)
    assert one.mode == "RGB"
    assert one.width < row.width == two_rows.width == 3 * 168 + 8
    assert one.height == row.height < two_rows.height
    assert contact_sheet(source, [2, 2], columns=1, width=160).height == two_rows.height


def test_a_full_box_is_outlined_where_it_lies() -> None:
    page = contact_sheet(One([[50, 20, 90, 80]], [[50, 20, 90, 80]], [False]), [0], width=200)
    x, y = CELL[:2]
    assert page.getpixel((x + 50, y + 20)) == FULL and page.getpixel((x + 89, y + 79)) == FULL
    assert has(page, FULL, CELL) == 2 * 40 + 2 * 58
    assert has(page, VISIBLE, CELL) == 0 and has(page, IGNORED, CELL) == 0


def test_a_hidden_part_shows_as_a_second_smaller_box() -> None:
    page = contact_sheet(One([[50, 20, 90, 80]], [[50, 20, 70, 80]], [False]), [0], width=200)
    x, y = CELL[:2]
    assert page.getpixel((x + 69, y + 50)) == VISIBLE
    assert page.getpixel((x + 89, y + 50)) == FULL


def test_a_box_cut_by_the_image_edge_alone_is_not_called_hidden() -> None:
    page = contact_sheet(One([[150, 20, 240, 80]], [[150, 20, 200, 80]], [False]), [0], width=200)
    assert has(page, VISIBLE, CELL) == 0 and has(page, FULL, CELL) > 0


def test_a_box_over_the_edge_is_not_called_hidden_where_nobody_says_what_is_seen() -> None:
    over = [[150, 20, 240, 80]]
    page = contact_sheet(One(over, over, [False]), [0], width=200)
    assert has(page, VISIBLE, CELL) == 0 and has(page, FULL, CELL) > 0


def test_a_tall_scene_is_no_higher_than_its_cell_is_wide_and_keeps_its_shape() -> None:
    box = [[50, 20, 90, 80]]
    page = contact_sheet(One(box, box, [False], size=(100, 200)), [0], width=200)
    assert page.size == contact_sheet(One([], [], [], size=(200, 200)), [0], width=200).size
    assert page.getpixel((8 + 50, 38 + 20)) == FULL and page.getpixel((8 + 89, 38 + 79)) == FULL
    assert page.getpixel((8 + 99, 38 + 199)) == (0, 0, 0) != page.getpixel((8 + 100, 38 + 199))


def test_an_ignored_region_is_hatched_and_red() -> None:
    page = contact_sheet(One([[20, 20, 120, 60]], [[20, 20, 120, 60]], [True]), [0], width=200)
    assert has(page, FULL, CELL) == 0
    inside = (CELL[0] + 24, CELL[1] + 24, CELL[0] + 116, CELL[1] + 56)
    assert has(page, IGNORED, inside) > 100


def test_boxes_outside_the_image_spoil_nothing() -> None:
    outside = [[-40, -40, -10, -10]]
    page = contact_sheet(One(outside, outside, [True]), [0], width=200)
    assert has(page, IGNORED, CELL) == 0


def test_the_caption_is_legible_and_counts_people() -> None:
    empty = contact_sheet(One([], [], []), [0], width=200)
    one = contact_sheet(One([[50, 20, 90, 80]], [[50, 20, 90, 80]], [False]), [0], width=200)
    caption = (8, 138, 208, 162)
    assert np.asarray(empty.crop(caption)).max() > 200
    assert empty.crop(caption).tobytes() != one.crop(caption).tobytes()


def test_drawn_crowds_fit_on_a_page() -> None:
    page = contact_sheet(ProceduralCrowd("crowd", size=(320, 240)), range(2), columns=2, width=320)
    assert page.width == 2 * 328 + 8
    assert has(page, FULL, (0, 38, page.width, 278)) > 200


@pytest.mark.parametrize(
    ("indices", "options", "message"),
    [
        ([], {}, "indices: expected at least one scene, got none"),
        ([0], {"columns": 0}, "columns: expected at least 1, got 0"),
        ([0], {"width": 10}, "width: expected at least 64 pixels, got 10"),
    ],
)
def test_an_impossible_page_is_refused(indices: list, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contact_sheet(ToyScenes(), indices, **options)


def test_an_index_outside_the_source_is_an_error() -> None:
    with pytest.raises(IndexError):
        contact_sheet(ToyScenes(), [99])
