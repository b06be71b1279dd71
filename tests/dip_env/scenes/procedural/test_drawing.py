"""The drawing under the procedural scenes: camera, masks, random source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dip_env.scenes.procedural.drawing.compose import Thing, mask_box, paint
from dip_env.scenes.procedural.drawing.people.figures import draw_figure
from dip_env.scenes.procedural.drawing.people.person import random_person
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.canvas import (
    BEHIND,
    BODY,
    FRONT,
    Sketch,
    Sprite,
)
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.outlines import convex_hull
from dip_env.scenes.procedural.drawing.render.photo import Photo, finish
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom

SIZE = (60, 40)


def block(x: int, y: int, width: int, height: int, person: bool, depth: float) -> Thing:
    """A thing that is a plain rectangle of pixels."""
    mask = np.ones((height, width), dtype=bool) if person else None
    image = Image.new("RGB", (width, height), (200, 30, 30))
    sprite = Sprite(image, Image.new("L", (width, height), 255), mask, mask, (x, y))
    return Thing((0.0, 0.0, depth), depth, (sprite,), person=person)


def painted(*things: Thing):
    return paint(Image.new("RGB", SIZE), list(things))


def test_somebody_whom_nothing_hides_is_seen_wholly() -> None:
    truth = painted(block(10, 5, 10, 20, True, 5.0))
    assert truth.boxes == truth.visible == [(10, 5, 20, 25)]
    assert truth.shares == truth.inside == [1.0]


def test_a_nearer_thing_lowers_share_and_visible_box_but_not_the_full_box() -> None:
    truth = painted(block(10, 5, 10, 20, True, 5.0), block(10, 0, 5, 40, False, 2.0))
    assert truth.boxes == [(10, 5, 20, 25)]
    assert truth.visible == [(15, 5, 20, 25)]
    assert truth.shares == [0.5]


def test_a_farther_thing_hides_nothing_whatever_the_order_it_is_given_in() -> None:
    near, far = block(10, 5, 10, 20, True, 5.0), block(0, 0, 60, 40, False, 9.0)
    assert painted(near, far).shares == painted(far, near).shares == [1.0]


def test_a_nearer_person_hides_a_farther_one_entirely() -> None:
    truth = painted(block(12, 6, 4, 8, True, 9.0), block(10, 5, 10, 20, True, 5.0))
    assert truth.visible == [None, (10, 5, 20, 25)]
    assert truth.shares == [0.0, 1.0]


def test_what_lies_outside_the_image_counts_as_not_seen() -> None:
    truth = painted(block(-5, 30, 10, 20, True, 5.0))
    assert truth.boxes == [(-5, 30, 5, 50)]
    assert truth.visible == [(0, 30, 5, 40)]
    assert truth.shares == truth.inside == [0.25]


def test_somebody_outside_the_image_is_not_seen_at_all() -> None:
    truth = painted(block(70, 5, 10, 20, True, 5.0))
    assert truth.visible == [None] and truth.shares == [0.0]


@settings(deadline=None)  # the first example imports modules
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_the_box_of_a_mask_is_the_smallest_that_holds_it(rows: int, columns: int, data) -> None:
    cells = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    mask = np.array(cells, dtype=bool).reshape(rows, columns)
    box = mask_box(mask)
    if box is None:
        assert not mask.any()
        return
    x1, y1, x2, y2 = box
    inside = mask[y1:y2, x1:x2]
    assert inside.sum() == mask.sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_carried_things_hide_a_body_but_do_not_belong_to_it() -> None:
    square = [(0.0, 0.0), (20.0, 0.0), (20.0, 40.0), (0.0, 40.0)]
    bag = [(10.0, 10.0), (40.0, 10.0), (40.0, 30.0), (10.0, 30.0)]
    bare, laden, behind = Sketch(20.0), Sketch(20.0), Sketch(20.0)
    for sketch in (bare, laden, behind):
        sketch.add(square, (90, 90, 200), 5.0, BODY)
    laden.add(bag, (200, 90, 90), 4.9, FRONT)
    behind.add(bag, (200, 90, 90), 5.1, BEHIND)
    sprites = [sketch.render() for sketch in (bare, laden, behind)]
    assert all(s is not None and s.body is not None and s.own is not None for s in sprites)
    full = [int(s.body.sum()) for s in sprites]  # type: ignore[union-attr]
    own = [int(s.own.sum()) for s in sprites]  # type: ignore[union-attr]
    assert full[0] == full[1] == full[2] == own[0] == own[2]
    assert full[0] * 0.7 < own[1] < full[0] * 0.8  # the bag hides 10 x 20 of 20 x 40
    assert np.asarray(sprites[1].alpha).any(axis=0).sum() >= 40  # type: ignore[union-attr]


cameras = st.builds(
    Camera,
    size=st.just((1280, 960)),
    focal=st.floats(600, 1300),
    height=st.floats(1.2, 25.0),
    pitch=st.floats(0.0, 1.2),
    centre_y=st.floats(250, 600),
)


@settings(deadline=None)
@given(cameras, st.floats(-8, 8), st.floats(3, 60))
def test_the_ground_point_of_a_projected_ground_point_is_itself(camera, x, z) -> None:
    column, row = camera.project((x, 0.0, z))
    back = camera.ground(column, row)
    assert back == pytest.approx((x, z), rel=1e-4, abs=1e-4)


@settings(deadline=None)
@given(cameras, st.floats(-8, 8), st.floats(0, 2), st.floats(3, 60))
def test_the_jacobian_is_the_slope_of_the_projection(camera, x, y, z) -> None:
    columns, rows, depths = camera.jacobian((x, y, z))
    step = 1e-5
    for axis in range(3):
        ahead = [x, y, z]
        behind = [x, y, z]
        ahead[axis] += step
        behind[axis] -= step
        (u1, v1), (u0, v0) = camera.project(tuple(ahead)), camera.project(tuple(behind))
        d = (camera.depth(tuple(ahead)) - camera.depth(tuple(behind))) / (2 * step)
        assert (u1 - u0) / (2 * step) == pytest.approx(columns[axis], rel=1e-3, abs=1e-2)
        assert (v1 - v0) / (2 * step) == pytest.approx(rows[axis], rel=1e-3, abs=1e-2)
        assert d == pytest.approx(depths[axis], abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=20))
def test_a_convex_hull_turns_one_way_and_leaves_nothing_outside(points) -> None:
    hull = convex_hull(points)
    assert set(hull) <= set(points)
    if len(hull) < 3:
        return
    for (ax, ay), (bx, by) in zip(hull, hull[1:] + hull[:1], strict=True):
        assert all((bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0 for x, y in points)


def test_nearer_people_are_drawn_larger_and_lower() -> None:
    camera = Camera((1280, 960), 1000.0, 1.6, 0.0, 400.0)
    person = random_person(SceneRandom(1), 3.0, "stand", carry=0.0, umbrellas=0.0)
    boxes = []
    for z in (5.0, 10.0, 20.0):
        sprite = draw_figure(person, camera, (0.0, 0.0, z), lambda c: c, (-0.5, -0.6))
        assert sprite is not None and sprite.body is not None
        box = mask_box(sprite.body)
        assert box is not None
        boxes.append((box[3] - box[1], box[3] + sprite.origin[1]))
    heights, feet = zip(*boxes, strict=True)
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.03)
    assert heights[1] == pytest.approx(2 * heights[2], rel=0.05)
    assert feet[0] > feet[1] > feet[2] > 400
    assert feet[1] == pytest.approx(400 + 1000 * 1.6 / 10.0, abs=6)


def test_a_random_source_gives_the_same_numbers_for_the_same_seed_and_stays_in_range() -> None:
    one, two, other = SceneRandom(3, 1, 4), SceneRandom(3, 1, 4), SceneRandom(3, 1, 5)
    first = [one.random() for _ in range(1500)]
    assert first == [two.random() for _ in range(1500)]
    assert first != [other.random() for _ in range(1500)]
    assert all(0 <= value < 1 for value in first)
    assert {one.integer(2, 4) for _ in range(200)} == {2, 3, 4}
    assert {one.choice("abc") for _ in range(200)} == set("abc")
    assert {one.weighted_choice({"a": 1.0, "b": 0.0, "c": 2.0}) for _ in range(200)} == {"a", "c"}
    assert all(1 <= one.bates(3, 2) <= 5 for _ in range(200))


def test_a_photograph_keeps_its_size_and_noise_keeps_its_mean() -> None:
    plain = Image.new("RGB", (96, 64), (120, 130, 140))
    noisy = finish(plain, Photo(noise=12, grain=(3, 9)))
    values = np.asarray(noisy).astype(float)
    assert values.std(axis=(0, 1)).min() > 2
    assert np.abs(values.mean(axis=(0, 1)) - (120, 130, 140)).max() < 1.5
    stored = finish(noisy, Photo(quality=50, blur=0.8))
    assert stored.size == plain.size and stored.mode == "RGB"
    assert finish(plain, Photo()).tobytes() == plain.tobytes()


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("tall", [20.0, 90.0, 300.0])
def test_an_edge_is_a_mixture_of_a_figure_and_what_is_behind_it(samples: int, tall: float) -> None:
    sketch = Sketch(20.0)
    sketch.capsule((3.3, 2.1), (tall / 3, tall), (tall / 9, tall / 16), (250, 240, 230), 1.0)
    sketch.capsule((tall / 2, 5.0), (9.0, tall / 2), (2.0, tall / 20), (250, 240, 230), 0.5, FRONT)
    sprite = sketch.render(samples)
    assert sprite is not None
    plate = Image.new("RGB", (400, 400), (240, 230, 220))
    thing = Thing((0.0, 0.0, 5.0), 5.0, (sprite,), person=True)
    paint(plate, [thing])
    drawn = np.asarray(plate).astype(int) - (240, 230, 220)
    # Nothing darker or brighter than both shines through: least covered pixels are rounded most.
    assert drawn.min() >= -1 and drawn.max() <= 11
    assert (drawn[..., 0] == 10).any() and ((drawn[..., 0] > 2) & (drawn[..., 0] < 8)).any()


def test_light_never_changes_the_hue_of_what_it_makes_too_bright() -> None:
    light = Light("sun", (1.4, 1.4, 1.4), (0, 0, 0), 0.0, (0.0, 0.0), 0.4, (0.0, 0.0))
    assert light.tone(5.0)((100.0, 80.0, 60.0)) == pytest.approx((140.0, 112.0, 84.0))
    assert light.tone(5.0)((250.0, 200.0, 150.0)) == pytest.approx((255.0, 204.0, 153.0))
