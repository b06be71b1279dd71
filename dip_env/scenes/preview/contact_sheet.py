"""Many scenes of a source on one page, with their boxes, for inspection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dip_env.errors import ConfigError
from dip_env.prompts import plural
from dip_env.scenes.base import Scene, SceneSource

Colour = tuple[int, int, int]

FULL: Colour = (80, 255, 96)
"""Full (amodal) box of a person."""
VISIBLE: Colour = (255, 226, 64)
"""Box of the visible part, where it differs from the full one."""
IGNORED: Colour = (255, 72, 96)
"""Ignored instance or region, also hatched."""
PAGE: Colour = (24, 26, 30)
"""Background of a page."""
TEXT: Colour = (232, 232, 228)
"""Text of captions."""

_GAP = 8
_CAPTION = 24
_LEGEND = 30
_HATCH = 12


def contact_sheet(
    source: SceneSource, indices: Sequence[int], columns: int = 4, width: int = 480
) -> Image.Image:
    """Draw scenes side by side with their true boxes.

    Full boxes are green, boxes of the visible part yellow where they differ, ignore regions red
    and hatched. A caption gives each scene's index, its size and its numbers of counted and
    ignored instances; a legend is on top.

    Args:
        source: where the scenes come from.
        indices: which scenes, in reading order.
        columns: scenes per row; fewer when there are fewer scenes.
        width: of one scene on the page, pixels; tall scenes are at most as high.

    Returns:
        RGB page, at most ``columns * (width + 8) + 8`` pixels wide.

    Raises:
        ConfigError: for no indices, fewer than one column or a width under 64.
        IndexError: for an index outside the source.
    """
    if len(indices) == 0:
        raise ConfigError("indices: expected at least one scene, got none")
    if columns < 1:
        raise ConfigError(f"columns: expected at least 1, got {columns!r}")
    if width < 64:
        raise ConfigError(f"width: expected at least 64 pixels, got {width!r}")
    page = arranged([_cell(source[index], index, width) for index in indices], columns)
    _legend(page)
    return page


def arranged(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Arrange images of one width on a page, row by row, with room for a legend on top.

    Args:
        cells: at least one RGB image, in reading order.
        columns: images per row; fewer when there are fewer images.

    Returns:
        RGB page; its first 30 rows of pixels are empty.
    """
    columns, width = min(columns, len(cells)), cells[0].width
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    page = Image.new(
        "RGB",
        (columns * (width + _GAP) + _GAP, _LEGEND + sum(heights) + _GAP * (len(rows) + 1)),
        PAGE,
    )
    top = _LEGEND + _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return page


def _cell(scene: Scene, index: int, width: int) -> Image.Image:
    """Draw one scene with its boxes and a caption below."""
    scale = width / max(scene.size)  # no taller than wide: a tall scene would leave its row empty
    shown, height = (max(1, round(side * scale)) for side in scene.size)
    picture = scene.image.resize((shown, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    line = 2 if width >= 400 else 1
    limit = np.array([*scene.size, *scene.size], dtype=np.float32)
    apart = np.clip(scene.visible_boxes, 0, limit) - np.clip(scene.boxes, 0, limit)
    differs = np.any(np.abs(apart) * scale > 1.5, axis=1).tolist()
    for box, seen, ignored, partly in zip(
        scene.boxes * scale, scene.visible_boxes * scale, scene.ignore, differs, strict=True
    ):
        if ignored:
            _hatch(picture, box)
            draw.rectangle(_corners(box), outline=IGNORED, width=line)
            continue
        small = box[3] - box[1] < 24
        draw.rectangle(_corners(box), outline=FULL, width=1 if small else line)
        if partly:
            draw.rectangle(_corners(seen), outline=VISIBLE, width=1)
    ignored_count = int(scene.ignore.sum())
    people = len(scene.labels) - ignored_count
    caption = f"#{index}   {scene.size[0]}x{scene.size[1]}   {people} {plural(scene.target)}"
    if ignored_count:
        caption += f"   {ignored_count} ignored"
    cell = Image.new("RGB", (width, height + _CAPTION), PAGE)
    cell.paste(picture)
    ImageDraw.Draw(cell).text((2, height + 4), caption, TEXT, font=ImageFont.load_default(14))
    return cell


def _corners(box: NDArray[np.float32]) -> list[float]:
    """Return a box as Pillow expects it: the right and bottom pixels are inclusive."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)]


def _hatch(picture: Image.Image, box: NDArray[np.float32]) -> None:
    """Hatch a box, so that ignored regions can be recognized without colour."""
    x1, y1 = max(0, round(float(box[0]))), max(0, round(float(box[1])))
    x2 = min(picture.width, round(float(box[2])))
    y2 = min(picture.height, round(float(box[3])))
    if x2 <= x1 or y2 <= y1:
        return
    part = picture.crop((x1, y1, x2, y2))
    draw = ImageDraw.Draw(part)
    for start in range(-part.height, part.width, _HATCH):
        draw.line((start, part.height, start + part.height, 0), fill=IGNORED, width=1)
    picture.paste(part, (x1, y1))


def _legend(page: Image.Image) -> None:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    x = _GAP + 2
    for colour, name in ((FULL, "full"), (VISIBLE, "visible part"), (IGNORED, "ignored")):
        draw.rectangle((x, 10, x + 16, 22), outline=colour, width=2)
        draw.text((x + 22, 8), name, TEXT, font=font)
        x += 34 + round(draw.textlength(name, font=font))
