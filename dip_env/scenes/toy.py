"""Four hand-made scenes with known answers, for tests and first steps; no files, no randomness."""

from __future__ import annotations

from functools import partial
from operator import index as as_index

import numpy as np
from PIL import Image, ImageDraw

from dip_env.scenes.base import Scene

TOY_SIZE = (640, 480)
"""(width, height) of every toy scene in pixels."""

# Per scene: (xyxy box, visible box or None for all of it, ignored?), nearest person last.
_TABLE: tuple[tuple[tuple[tuple[int, ...], tuple[int, ...] | None, bool], ...], ...] = (
    # 0: three people well apart.
    (
        ((40, 100, 120, 340), None, False),
        ((280, 140, 340, 320), None, False),
        ((500, 80, 600, 400), None, False),
    ),
    # 1: the left person is half hidden by the right one; a far crowd is an ignore region.
    (
        ((100, 120, 200, 420), (100, 120, 150, 420), False),
        ((150, 120, 250, 420), None, False),
        ((400, 60, 620, 120), None, True),
    ),
    # 2: no person.
    (),
    # 3: one person of 6 x 15 pixels: a few grey pixels in the overview, clear in a crop.
    (((311, 200, 317, 215), None, False),),
)

_SHIRTS = ((196, 64, 48), (48, 96, 180), (232, 184, 64), (96, 160, 96))


class ToyScenes:
    """Four scenes of 640 x 480 pixels: three people, two overlapping, none, one tiny person.

    Item i never changes, so a test can work out every reward by hand. Scene 1 holds an
    instance that is half hidden and one ignore region; scene 3 shows why looking helps.
    """

    def __repr__(self) -> str:
        """Return the class name; there are no settings."""
        return "ToyScenes()"

    def __len__(self) -> int:
        """Return 4."""
        return len(_TABLE)

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index``; raises IndexError outside 0..3."""
        index = as_index(index)
        if not 0 <= index < len(_TABLE):
            raise IndexError(f"toy scene: expected 0..{len(_TABLE) - 1}, got {index}")
        rows = _TABLE[index]
        boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
        visible = np.array([seen or box for box, seen, _ in rows], np.float32).reshape(-1, 4)
        return Scene(
            scene_id=f"toy-{index}",
            size=TOY_SIZE,
            boxes=boxes,
            visible_boxes=visible,
            visible_share=_area(visible) / _area(boxes),
            ignore=np.array([ignored for _, _, ignored in rows], bool),
            labels=("person",) * len(rows),
            load_image=partial(_draw, index),
        )


def _area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (N,) of xyxy boxes (N, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _draw(index: int) -> Image.Image:
    """Paint scene ``index``: a person is a head over a shirt over trousers, filling its box."""
    image = Image.new("RGB", TOY_SIZE, (168, 176, 184))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 300, *TOY_SIZE), fill=(120, 120, 112))
    for k, ((x1, y1, x2, y2), _, ignored) in enumerate(_TABLE[index]):
        if ignored:
            for x in range(x1, x2 - 7, 10):
                pen.rectangle((x, y1, x + 7, y2 - 1), fill=(90, 84, 96))
            continue
        head, belt = y1 + (y2 - y1) // 6, y1 + (y2 - y1) * 3 // 5
        middle, half = (x1 + x2) // 2, max(1, (x2 - x1) // 5)
        pen.rectangle((middle - half, y1, middle + half - 1, head - 1), fill=(224, 172, 136))
        pen.rectangle((x1, head, x2 - 1, belt - 1), fill=_SHIRTS[(index + k) % len(_SHIRTS)])
        pen.rectangle((x1, belt, x2 - 1, y2 - 1), fill=(40, 44, 60))
    return image
