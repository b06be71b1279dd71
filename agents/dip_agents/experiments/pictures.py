"""Where a policy looks, drawn over what is ambiguous."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dip_agents.evaluation.looks import look_coverage_of
from dip_agents.evaluation.play import play
from dip_agents.policies.base import Policy
from dip_agents.policies.oracle_looks import scene_ambiguity
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.rendering import LOOK, Colour, draw_boxes
from dip_env.scenes.base import SceneSource
from dip_env.scenes.preview.contact_sheet import PAGE, TEXT, arranged

CERTAIN: Colour = (112, 136, 224)
"""Colour of ambiguity 0; between 0 and 1 it runs through the other two."""
UNSURE: Colour = (255, 190, 40)
AMBIGUOUS: Colour = (255, 48, 48)

_CAPTION = 24
_LEGEND_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


def looking_sheet(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    config: EpisodeConfig,
    *,
    seed: int = 0,
    batch_size: int = 16,
    columns: int = 3,
    width: int = 480,
) -> Image.Image:
    """Play scenes and draw them side by side: looks, and people coloured by their ambiguity.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, in reading order.
        config: the rules.
        seed: of the policy's randomness; with that of a report, the looks are those of the report.
        batch_size: most observations handed to the policy at once.
        columns: scenes per row; fewer when there are fewer scenes.
        width: of one scene on the page, pixels.

    Returns:
        RGB page, a legend on top.

    Raises:
        ConfigError: for no indices, fewer than one column or a width under 64.
    """
    if not len(indices):
        raise ConfigError("indices: expected at least one scene, got none")
    for name, size, least in (("columns", columns, 1), ("width", width, 64)):
        if size < least:
            raise ConfigError(f"{name}: expected at least {least}, got {size}")
    cells = []
    for start in range(0, len(indices), batch_size):
        chunk = indices[start : start + batch_size]
        groups = [EpisodeGroup(source[index], config, scene_index=index) for index in chunk]
        play(policy, groups, batch_size=batch_size, seed=seed)
        cells += [looking_picture(group.episodes[0], width) for group in groups]
    page = arranged(cells, columns)
    _legend(page)
    return page


def looking_picture(episode: Episode, width: int = 480) -> Image.Image:
    """Draw where an episode looked, over the overview as the policy saw it.

    Every non-ignored person is outlined in the colour of its ambiguity by the annotation, the most
    ambiguous on top; looks are light blue and numbered. The caption says what they cover.

    Args:
        episode: with its looks taken.
        width: of the picture in pixels; a tall scene is as high.

    Returns:
        RGB picture with a caption under it.
    """
    scene, view = episode.scene, episode.view
    scale = width / max(scene.size)
    shown, height = (max(1, round(side * scale)) for side in scene.size)
    picture = Image.new("RGB", (width, height + _CAPTION), PAGE)
    overview = Image.fromarray(episode.opening.images[0])
    picture.paste(overview.resize((shown, height), Image.Resampling.BICUBIC))
    pen = ImageDraw.Draw(picture)
    items = scene_ambiguity(scene, view)
    line = 2 if width >= 400 else 1
    for k in np.argsort(items.weights, kind="stable"):
        draw_boxes(pen, scale * items.boxes[[k]], ambiguity_colour(items.weights[k]), line)
    draw_boxes(pen, scale * episode.looks, LOOK, 3)
    for number, (x1, y1, _, _) in enumerate((scale * episode.looks).tolist(), start=1):
        # Above the look, not over the people in it.
        place, font = (x1, max(y1 - 20, 0)), ImageFont.load_default(16)
        pen.text(place, str(number), LOOK, font, stroke_width=2, stroke_fill=(0, 0, 0))
    pen.rectangle((0, height, width, height + _CAPTION), fill=PAGE)
    pen.text((2, height + 4), _caption(episode), TEXT, font=ImageFont.load_default(13))
    return picture


def ambiguity_colour(weight: float) -> Colour:
    """Return the colour of an ambiguity in [0, 1]: blue, over yellow at one half, to red."""
    low, high = (CERTAIN, UNSURE) if weight < 0.5 else (UNSURE, AMBIGUOUS)
    share = 2 * weight if weight < 0.5 else 2 * weight - 1
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _caption(episode: Episode) -> str:
    """Return one line on what the looks cover."""
    look_coverage = look_coverage_of(episode)
    name = "" if episode.scene_index is None else f"#{episode.scene_index}   "
    if not look_coverage.regions:
        return f"{name}no look"
    if look_coverage.covered is None:
        return f"{name}nothing is ambiguous; {look_coverage.area:.0%} of the image"
    return (
        f"{name}{look_coverage.covered:.0%} of the ambiguity on {look_coverage.area:.0%} of the "
        f"image"
    )


def _legend(page: Image.Image) -> None:
    """Name the colours on top of a page."""
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    entries = [("look", LOOK), ("ambiguity", None)]
    entries += [(f"{weight:g}", ambiguity_colour(weight)) for weight in _LEGEND_STEPS]
    x = 10
    for word, colour in entries:
        if colour is not None:
            pen.rectangle((x, 10, x + 16, 22), outline=colour, width=3)
            x += 22
        pen.text((x, 8), word, TEXT, font=font)
        x += 12 + round(pen.textlength(word, font=font))
