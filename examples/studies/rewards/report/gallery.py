"""The scenes where a model is worst and best, with truth, answer and looks drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dip_env import EpisodeConfig, SceneSource
from dip_env.rendering import render_frame
from dip_env.scenes.preview.contact_sheet import PAGE, TEXT, arranged
from examples.studies.rewards.measure.answers import Measured
from examples.studies.rewards.report.stats import per_scene_f1

COLUMNS, CELL, CAPTION = 3, 470, 24


def worst_and_best(measured: Measured, count: int) -> tuple[list[int], list[int]]:
    """Choose scenes by their F1, ties by their order; scenes without people are left out.

    Args:
        measured: of one model.
        count: how many of each.

    Returns:
        Positions of the worst, from the worst on, and of the best, from the best on.
    """
    f1 = per_scene_f1(measured.columns)
    people = np.asarray(measured.columns["people"]) > 0
    order = [int(i) for i in np.argsort(f1, kind="stable") if people[i]]
    best = sorted(order, key=lambda i: (-f1[i], i))
    return order[:count], best[:count]


def gallery(
    measured: Measured,
    positions: Sequence[int],
    source: SceneSource,
    rules: EpisodeConfig,
    title: str,
) -> Image.Image:
    """Play scenes again and draw how they ended.

    Args:
        measured: of one model.
        positions: of the scenes among those measured, in reading order.
        source: the scenes.
        rules: that were measured under.
        title: of the page.

    Returns:
        RGB page, three scenes wide.
    """
    cells = []
    f1 = per_scene_f1(measured.columns)
    for position in positions:
        episode = measured.play_again(position, source, rules)
        frame = Image.fromarray(render_frame(episode, episode.score))
        height = round(frame.height * CELL / frame.width)
        cell = Image.new("RGB", (CELL, height + CAPTION), PAGE)
        cell.paste(frame.resize((CELL, height), Image.Resampling.LANCZOS), (0, CAPTION))
        words = f"scene {measured.indices[position]}: F1 {f1[position]:.2f}"
        ImageDraw.Draw(cell).text((4, 4), words, TEXT, font=ImageFont.load_default(15))
        cells.append(cell)
    page = arranged(cells, COLUMNS)
    ImageDraw.Draw(page).text((12, 8), title, TEXT, font=ImageFont.load_default(15))
    return page
