"""From scene boxes to the numbers that a policy prints, and helpers of scripted policies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dip_env.actions import Answer
from dip_env.boxes import clip_boxes
from dip_env.episode import Observation
from dip_env.views import View

PERSON_ASPECT = 0.4
"""Width over height of a standing person, used where there are no annotations."""


def quantize_boxes(
    boxes: NDArray[np.float64], view: View, *, outward: bool = False, decimals: int = 0
) -> NDArray[np.float64]:
    """Turn scene boxes into numbers a policy would print.

    Args:
        boxes: (N, 4) xyxy, scene frame.
        view: the episode's frames.
        outward: round so that the printed box holds the given one, as looks need.
        decimals: digits kept after the point, at most two.

    Returns:
        (N, 4) xyxy, text frame, inside the view, each side at least one printed unit long.
    """
    unit = 10.0**-decimals
    text = clip_boxes(view.scene_to_text(boxes), view.text_size) / unit
    low, high = (np.floor, np.ceil) if outward else (np.round, np.round)
    corners = np.concatenate([low(text[:, :2]), high(text[:, 2:])], axis=1)
    corners[:, :2] = np.minimum(corners[:, :2], np.array(view.text_size) / unit - 1)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return np.round(corners * unit, decimals)


def reading_order(boxes: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the order of (N, 4) xyxy boxes by left edge, ties by the edges that follow."""
    return np.lexsort(boxes.T[::-1])


def make_answer(boxes: NDArray[np.float64], label: str | None = None) -> Answer:
    """Wrap (N, 4) text boxes as an answer without scores."""
    return Answer(boxes, (label,) * len(boxes), (None,) * len(boxes))


def may_look(observation: Observation) -> bool:
    """Tell whether a look now still leaves a turn for the answer."""
    return observation.looks_left > 0 and observation.turns_left > 1


def must_answer_at_once(observation: Observation) -> bool:
    """Tell whether look and answer must share the only action: the single pass."""
    first = observation.turn == 0
    return first and observation.looks_left > 0 and observation.turns_left == 1


def random_boxes(
    n: int, size: tuple[float, float], rng: np.random.Generator, heights: tuple[float, float]
) -> NDArray[np.float64]:
    """Draw person-shaped boxes at random positions.

    Args:
        n: number of boxes.
        size: (width, height) of the scene.
        rng: source of randomness.
        heights: smallest and largest height as shares of the scene's height.

    Returns:
        (n, 4) xyxy inside the scene, scene frame.
    """
    tall = np.exp(rng.uniform(np.log(heights[0]), np.log(heights[1]), n)) * size[1]
    wide = np.minimum(PERSON_ASPECT * tall, size[0])
    x = rng.uniform(0, 1, n) * (size[0] - wide)
    y = rng.uniform(0, 1, n) * (size[1] - tall)
    return np.stack([x, y, x + wide, y + tall], axis=1)
