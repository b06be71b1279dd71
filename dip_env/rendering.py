"""Episodes for human eyes: an image of looks, answers and ground truth, and the transcript."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dip_env.episode import Episode
from dip_env.messages import Message
from dip_env.rewards import Score
from dip_env.views import View

Colour = tuple[int, int, int]

LOOK: Colour = (64, 196, 255)
ANSWER: Colour = (255, 214, 0)
TRUTH: Colour = (255, 255, 255)
MATCHED: Colour = (0, 230, 118)
FALSE: Colour = (255, 64, 64)
MISSED: Colour = (255, 64, 255)
DROPPED: Colour = (160, 160, 160)

SCALE = 2
"""Frame pixels per view pixel, so that instances of a few view pixels can be told apart."""
_LINE_HEIGHT = 24
_FONT_SIZE = 17


def transcript_text(messages: Iterable[Message]) -> str:
    """Return a conversation as text.

    Args:
        messages: the conversation, in order.

    Returns:
        One paragraph per message, headed by its role and the size of each of its images.
    """
    return "\n\n".join(_paragraph(message) for message in messages)


def render_frame(episode: Episode, score: Score | None = None) -> NDArray[np.uint8]:
    """Draw the state of an episode.

    Looks are blue, an answer yellow. With a score, matched answers are green and their true boxes
    white, false positives red, missed instances magenta, ignore regions and dropped answers grey.

    Args:
        episode: what to draw.
        score: of the episode; without it no ground truth is drawn.

    Returns:
        RGB uint8 (h, w, 3): twice the view with a caption of two lines under it.
    """
    scene, view = episode.scene, episode.view
    width, height = (SCALE * side for side in view.view_size)
    frame = Image.new("RGB", (width, height + 2 * _LINE_HEIGHT), (16, 16, 16))
    frame.paste(scene.image.resize((width, height), Image.Resampling.BICUBIC))
    pen = ImageDraw.Draw(frame)
    if score is not None:
        draw_boxes(pen, _to_frame(view, scene.ignore_boxes), DROPPED, 1)
    draw_boxes(pen, _to_frame(view, episode.looks), LOOK, 3, names="look")
    answers = SCALE * view.text_to_view(episode.answer)
    if score is None:
        draw_boxes(pen, answers, ANSWER, 2)
        legend = [("look", LOOK), ("answer", ANSWER)]
    else:
        found = score.matches
        missed = _to_frame(view, scene.truth[found.unmatched_truth])
        draw_boxes(pen, _to_frame(view, scene.truth[found.truth]), TRUTH, 1)
        draw_boxes(pen, answers[found.dropped], DROPPED, 2)
        draw_boxes(pen, missed, MISSED, 2)
        draw_boxes(pen, answers[found.unmatched_pred], FALSE, 2)
        draw_boxes(pen, answers[found.pred], MATCHED, 2)
        legend = [
            ("look", LOOK),
            (f"{len(found.pred)} matched", MATCHED),
            (f"{len(found.unmatched_pred)} false", FALSE),
            (f"{len(missed)} missed", MISSED),
            ("found truth", TRUTH),
            ("ignored", DROPPED),
        ]
    _caption(pen, height, _status(episode, score), legend)
    return np.array(frame)


def _paragraph(message: Message) -> str:
    """Return one message under its heading, each image in its position."""
    parts = [
        part if isinstance(part, str) else f"[image {part.shape[1]}x{part.shape[0]}]"
        for part in message.parts
    ]
    return "\n".join([f"[{message.role}]", *(part.strip("\n") for part in parts)])


def _to_frame(view: View, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert (N, 4) boxes from the scene to pixels of the rendered frame."""
    return SCALE * view.scene_to_view(boxes)


def draw_boxes(
    pen: ImageDraw.ImageDraw,
    boxes: NDArray[np.float64],
    colour: Colour,
    width: int,
    names: str | None = None,
) -> None:
    """Outline boxes over a dark line that keeps them legible on any background.

    Args:
        pen: of the image.
        boxes: (N, 4) xyxy, pixels of the image.
        colour: of the line.
        width: of the line in pixels; the dark one is wider by 2.
        names: written inside each box with its number, counted from 1; nothing without it.
    """
    for number, box in enumerate(np.clip(boxes, -1e6, 1e6).tolist(), start=1):
        x1, x2 = sorted(box[0::2])
        y1, y2 = sorted(box[1::2])
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=width + 2)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        if names:
            corner = (max(x1, 0) + 5, max(y1, 0) + 3)
            pen.text(
                corner, f"{names} {number}", colour, _font(), stroke_width=2, stroke_fill=(0, 0, 0)
            )


def _status(episode: Episode, score: Score | None) -> str:
    """Return the first caption line: the budget, or the reward."""
    if score is None:
        return (
            f"turn {episode.turn}/{episode.config.max_turns}   "
            f"{episode.looks_left} looks left   {len(episode.answer)} boxes"
        )
    total = score.terms.total(episode.config.reward.weights)
    terms = "   ".join(f"{name} {value:.2f}" for name, value in score.terms.as_dict().items())
    return f"reward {total:.2f}   {terms}"


def _caption(
    pen: ImageDraw.ImageDraw, top: int, status: str, legend: Sequence[tuple[str, Colour]]
) -> None:
    """Write the status and, under it, each entry of the legend in its colour."""
    pen.text((8, top + 3), status, (255, 255, 255), _font())
    x = 8.0
    for word, colour in legend:
        pen.text((x, top + _LINE_HEIGHT + 1), word, colour, _font())
        x += pen.textlength(word, _font()) + 20


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's own font."""
    return ImageFont.load_default(_FONT_SIZE)
