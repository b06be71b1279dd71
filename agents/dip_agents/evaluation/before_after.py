"""One scene before and after training in one picture: where a policy looked, and what it answered.

The scene is chosen by a rule that favours nobody (``median_scene``), and both episodes are replayed
from the traces of their evaluations, which checks that they are what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dip_agents.evaluation.looks import look_coverage_of
from dip_agents.evaluation.result import EvalResult
from dip_env.boxes import BoxesLike, clip_boxes
from dip_env.episode import Episode
from dip_env.prompts import plural
from dip_env.rendering import DROPPED, FALSE, LOOK, MATCHED, MISSED, TRUTH, Colour, draw_boxes
from dip_env.rewards import Score
from dip_env.scenes.base import SceneSource
from dip_env.scenes.preview.contact_sheet import PAGE, TEXT
from dip_env.views import Crop
from dip_wrappers.traces import TraceError, load_traces, replay

MIN_PEOPLE = 3
"""Fewest non-ignored people of a scene that may be drawn."""
PANEL = 800
"""Width of one episode in the picture, and its greatest height, pixels."""

_GAP, _HEAD, _TITLE, _NAME = 16, 92, 34, 24
_FEW, _COLUMNS = 3, 5
"""Crops in a row where there are few, and where there are many."""


@dataclass(frozen=True)
class MedianScene:
    """The scene that stands for two evaluations.

    Args:
        position: of the scene in both.
        index: of the scene in its source.
        gain: in look coverage, in [-1, 1].
        scenes: how many were ranked.
    """

    position: int
    index: int
    gain: float
    scenes: int


def median_scene(before: EvalResult, after: EvalResult) -> MedianScene | None:
    """Choose the scene whose gain in look coverage is the median of all.

    Args:
        before: an evaluation.
        after: another of the same scenes.

    Returns:
        Of the scenes with ``MIN_PEOPLE`` people or more, the one in the middle by the gain, the
        lower one of two, equal gains in the order of the scenes; None where no scene has so many
        people or no look is allowed.
    """
    first, second = before.score.counters, after.score.counters
    people = second["truth"] / second["episodes"]
    (ranked,) = np.nonzero(
        (people >= MIN_PEOPLE) & (first["ambiguous"] > 0) & (second["ambiguous"] > 0)
    )
    if not len(ranked):
        return None
    was, now = (one["covered"][ranked] / one["ambiguous"][ranked] for one in (first, second))
    gains = now - was
    middle = int(np.argsort(gains, kind="stable")[(len(ranked) - 1) // 2])
    position = int(ranked[middle])
    return MedianScene(position, after.scene_indices[position], float(gains[middle]), len(ranked))


def load_episode(evaluation: Path, index: int, source: SceneSource) -> Episode:
    """Replay the first rollout of a scene from the traces of an evaluation.

    Args:
        evaluation: folder of ``evaluate``.
        index: of the scene.
        source: that was evaluated.

    Returns:
        The finished episode, scored.

    Raises:
        TraceError: where the scene was not played there, or plays otherwise now.
    """
    folder = evaluation / "traces"
    for trace in load_traces(folder):
        if trace.scene_index == index and trace.member == 0:
            return replay(trace, source)
    raise TraceError(f"{folder}: expected an episode on scene {index}, found none")


def draw_before_and_after(
    before: Episode, after: Episode, chosen: MedianScene, name: str
) -> Image.Image:
    """Draw two episodes on one scene side by side.

    Each shows the source image with the regions it looked at, numbered, its answer (right boxes
    green, wrong ones red) and thinly the true people (found white, missed magenta); below are the
    crops as the policy saw them, enlarged. The heading says by which rule the scene was chosen.

    Args:
        before: a finished, scored episode.
        after: another on the same scene.
        chosen: the scene.
        name: of the scenes.

    Returns:
        RGB picture, two panels of 800 pixels wide.
    """
    below = max(_crops_height(len(episode.crops)) for episode in (before, after))
    panels = [
        _panel(episode, word, below) for episode, word in ((before, "before"), (after, "after"))
    ]
    width, height = panels[0].size
    page = Image.new("RGB", (2 * width + 3 * _GAP, _HEAD + height + _GAP), PAGE)
    for k, panel in enumerate(panels):
        page.paste(panel, (_GAP + k * (width + _GAP), _HEAD))
    pen, who = ImageDraw.Draw(page), plural(after.scene.target)
    heading = f"Where it looks, before and after training: scene {chosen.index} of {name}"
    rule = (
        f"Of the {chosen.scenes} scenes measured with {MIN_PEOPLE} {who} or more, the one with the "
        f"median gain in look coverage: {round(100 * chosen.gain):+d} points."
    )
    pen.text((_GAP, 10), heading, TEXT, ImageFont.load_default(24))
    pen.text((_GAP, 42), rule, TEXT, ImageFont.load_default(17))
    _legend(pen, 66, who, ignored=bool(after.scene.ignore.any()))
    return page


def _panel(episode: Episode, word: str, below: int) -> Image.Image:
    """Draw one episode: its title, the scene, and its crops in the pixels below."""
    scene, score = episode.scene, _score(episode)
    scale = PANEL / max(scene.size)
    size = (max(1, round(scene.size[0] * scale)), max(1, round(scene.size[1] * scale)))
    top = _TITLE + size[1] + _GAP
    panel = Image.new("RGB", (PANEL, top + below), PAGE)
    panel.paste(scene.image.resize(size, Image.Resampling.LANCZOS), (0, _TITLE))
    pen = ImageDraw.Draw(panel)
    pen.text((0, 4), _title(episode, word), TEXT, ImageFont.load_default(19))
    drawn = panel.crop((0, _TITLE, *(size[0], _TITLE + size[1])))
    _draw_episode(ImageDraw.Draw(drawn), episode, score, scale)
    panel.paste(drawn, (0, _TITLE))
    _draw_crops(panel, episode, top)
    return panel


def _draw_episode(pen: ImageDraw.ImageDraw, episode: Episode, score: Score, scale: float) -> None:
    """Draw people, answers and looks, the looks on top."""
    scene, found = episode.scene, score.matches
    answers = scale * episode.view.text_to_scene(episode.answer)
    boxes: tuple[tuple[BoxesLike, Colour, int], ...] = (
        (scale * scene.ignore_boxes, DROPPED, 1),
        (scale * scene.truth[found.truth], TRUTH, 1),
        (scale * scene.truth[found.unmatched_truth], MISSED, 1),
        (answers[found.dropped], DROPPED, 2),
        (answers[found.unmatched_pred], FALSE, 2),
        (answers[found.pred], MATCHED, 2),
    )
    for some, colour, width in boxes:
        # Without the dark line of ``draw_boxes``, which would hide small people altogether.
        for x1, y1, x2, y2 in clip_boxes(some, (PANEL, PANEL)).tolist():
            left, right, upper, lower = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            pen.rectangle((left, upper, right, lower), outline=colour, width=width)
    looks = scale * episode.looks
    draw_boxes(pen, looks, LOOK, 3)
    for number, (x1, y1, _, _) in enumerate(looks.tolist(), start=1):
        # Above the look, not over the people in it.
        place, font = (x1, max(y1 - 24, 0)), ImageFont.load_default(18)
        pen.text(place, f"look {number}", LOOK, font, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_crops(panel: Image.Image, episode: Episode, top: int) -> None:
    """Paste the crops below the scene, or say why there is none."""
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(16)
    if not episode.crops:
        words = (
            "looked and answered at once: no crop was shown" if len(episode.looks) else "no look"
        )
        pen.text((0, top), words, TEXT, font)
        return
    columns = _columns(len(episode.crops))
    side = _side(columns)
    for k, crop in enumerate(episode.crops):
        x = k % columns * (side + _GAP)
        y = top + k // columns * (_NAME + side + _GAP)
        words = f"look {k + 1}, {crop.magnification:.1f}x the overview"
        pen.text((x, y), words, LOOK, font)
        panel.paste(_enlarged(crop, side), (x, y + _NAME))


def _enlarged(crop: Crop, side: int) -> Image.Image:
    """Scale a crop to a square of a side, pixels as they are; the overview shows where it lies."""
    image = Image.fromarray(crop.image)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _title(episode: Episode, word: str) -> str:
    """Return one line on how an episode went."""
    found = _score(episode).matches
    both = 2 * len(found.pred) + len(found.unmatched_pred) + len(found.unmatched_truth)
    f1 = 2 * len(found.pred) / both if both else 1.0
    looks = look_coverage_of(episode)
    who = plural(episode.scene.target)
    return (
        f"{word}: F1 {f1:.2f}; looks cover {100 * (looks.covered or 0.0):.0f} % of the {who} worth "
        f"a look, on {100 * looks.area:.0f} % of the image"
    )


def _legend(pen: ImageDraw.ImageDraw, top: int, who: str, *, ignored: bool) -> None:
    entries = [
        ("look", LOOK),
        ("right box", MATCHED),
        ("wrong box", FALSE),
        (f"{who} found", TRUTH),
        (f"{who} missed", MISSED),
        *([("ignored", DROPPED)] if ignored else []),
    ]
    x, font = float(_GAP), ImageFont.load_default(16)
    for word, colour in entries:
        pen.rectangle((x, top + 3, x + 16, top + 15), outline=colour, width=3)
        pen.text((x + 24, top), word, TEXT, font)
        x += 48 + pen.textlength(word, font)


def _score(episode: Episode) -> Score:
    if episode.score is None:
        raise ValueError("expected a finished episode with a score, got one without")
    return episode.score


def _columns(crops: int) -> int:
    return _FEW if crops <= 2 * _FEW else _COLUMNS


def _side(columns: int) -> int:
    return (PANEL - (columns - 1) * _GAP) // columns


def _crops_height(crops: int) -> int:
    """Return the pixels that crops take, or the words that there is none."""
    columns = _columns(crops)
    return max(_NAME, ceil(crops / columns) * (_NAME + _side(columns) + _GAP))
