"""The messages of the environment: the task, crops, and errors. Independent of rewards."""

from __future__ import annotations

from collections.abc import Sequence

from dip_env.actions import Grammar
from dip_env.config import EpisodeConfig
from dip_env.views import Crop, View


def task_prompt(view: View, config: EpisodeConfig, grammar: Grammar, target: str = "person") -> str:
    """Return the text under the overview; it depends on size, rules and target only.

    Args:
        view: the frames of the scene.
        config: the rules of the episode.
        grammar: where the format text comes from.
        target: what is to be found, a singular noun.

    Returns:
        About 60 words: the task, what coordinates mean, the budget and the format; with
        ``config.minimal_prompt`` only the view's size and the looks.
    """
    width, height = view.view_size
    if config.minimal_prompt:
        return f"{width}x{height}, {count(config.max_looks, 'look')}"
    if config.coordinate_format == "pixel":
        frame = f"pixels of this {width}x{height} image"
    else:
        frame = f"thousandths of the width and height of this {width}x{height} image"
    if not config.max_looks:
        looks = "no looks"
    elif config.max_turns == 1:
        looks = (
            f"up to {count(config.max_looks, 'look')} in it, which show nothing: name the regions "
            "where you are not sure"
        )
    else:
        looks = (
            f"up to {count(config.max_looks, 'look')}, each showing its regions enlarged: "
            "look where you are not sure"
        )
    return (
        f"Find every {target} in the image. Boxes are x1,y1,x2,y2 in {frame}, from its top left "
        f"corner. You have {count(config.max_turns, 'turn')} to answer, and {looks}.\n"
        f"Write {grammar.describe(looks=config.max_looks > 0)}."
    )


def crops_message(
    crops: Sequence[Crop],
    view: View,
    turns_left: int,
    looks_left: int,
    *,
    first: int = 1,
    minimal_prompt: bool = False,
) -> str:
    """Return the text around new crops.

    Args:
        crops: what the look shows, in the order of its regions.
        view: the frames of the scene.
        turns_left: actions that may still be given.
        looks_left: looks that may still be taken.
        first: number of the first crop in the episode.
        minimal_prompt: print only place and magnification of each crop, and the looks left.

    Returns:
        One line per crop, which stands before it, then what is left; coordinates in the text frame.
    """
    regions = view.scene_to_text([crop.region for crop in crops]).tolist()
    places = ["[" + ",".join(str(round(v)) for v in region) + "]" for region in regions]
    scales = [f"{crop.magnification:.1f}x" for crop in crops]
    shown = enumerate(zip(places, scales, strict=True), start=first)
    if minimal_prompt:
        lines = [f"{place} {scale}" for _, (place, scale) in shown]
        return "\n".join([*lines, count(looks_left, "look")])
    lines = [f"Crop {k} shows {place} of the image at {scale}." for k, (place, scale) in shown]
    return "\n".join([*lines, _left(turns_left, looks_left)])


def nudge_message(turns_left: int, looks_left: int) -> str:
    """Return the text after an action that neither looked nor answered."""
    expected = "a look or an answer, got neither" if looks_left else "an answer, got none"
    return f"Expected {expected}. {_left(turns_left, looks_left)}"


def error_message(error: Exception, turns_left: int, looks_left: int) -> str:
    """Return the text after an action that could not be taken: what was expected, what came."""
    return f"Your action was not accepted: {error}. {_left(turns_left, looks_left)}"


def _left(turns: int, looks: int) -> str:
    """Say what budget remains."""
    return f"{count(turns, 'turn')} and {count(looks, 'look')} left."


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it needs one."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun, or of several joined by ``or``."""
    if " or " in noun:
        return " or ".join(plural(part) for part in noun.split(" or "))
    if noun == "person":
        return "people"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
