from __future__ import annotations

import numpy as np
import pytest

from dip_env import prompts
from dip_env.actions import Grammar
from dip_env.config import EpisodeConfig
from dip_env.errors import ActionParseError
from dip_env.views import Crop, View

VIEW = View((1280, 960), (448, 336))
GRAMMAR = Grammar()


def crop(*region: float, magnification: float = 3.24) -> Crop:
    return Crop(np.zeros((32, 32, 3), np.uint8), np.array(region, float), magnification)


def test_the_prompt_names_task_size_budget_and_the_grammars_own_format():
    text = prompts.task_prompt(VIEW, EpisodeConfig(max_turns=5, max_looks=1), GRAMMAR)
    assert "Find every person" in text
    assert "448x336" in text
    assert "5 turns" in text
    assert "1 look," in text
    assert GRAMMAR.describe() in text


def test_the_prompt_of_a_single_pass_says_that_looks_share_the_turn_and_show_nothing():
    text = prompts.task_prompt(VIEW, EpisodeConfig(max_turns=1, max_looks=2), GRAMMAR)
    assert "You have 1 turn to answer, and up to 2 looks in it, which show nothing" in text
    assert "enlarged" not in text and GRAMMAR.describe() in text


@pytest.mark.parametrize("coordinate_format", ["pixel", "norm1000"])
@pytest.mark.parametrize("max_looks", [0, 2])
def test_the_prompt_is_short(coordinate_format, max_looks):
    config = EpisodeConfig(coordinate_format=coordinate_format, max_looks=max_looks)
    assert len(prompts.task_prompt(VIEW, config, GRAMMAR).split()) <= 80


def test_the_prompt_says_what_coordinates_mean():
    pixel = prompts.task_prompt(VIEW, EpisodeConfig(), GRAMMAR)
    norm = prompts.task_prompt(VIEW, EpisodeConfig(coordinate_format="norm1000"), GRAMMAR)
    assert "in pixels of this 448x336 image" in pixel
    assert "thousandths" in norm


def test_p_no_look_the_prompt_offers_none():
    text = prompts.task_prompt(VIEW, EpisodeConfig(max_looks=0), GRAMMAR)
    assert "no looks" in text
    assert "<look>" not in text and GRAMMAR.describe(looks=False) in text


def test_crops_are_numbered_and_printed_as_integers_of_the_text_frame():
    message = prompts.crops_message(
        [crop(640, 480, 960, 720), crop(0, 0, 1280, 960, magnification=0.5)], VIEW, 2, 1, first=4
    )
    assert message == (
        "Crop 4 shows [224,168,336,252] of the image at 3.2x.\n"
        "Crop 5 shows [0,0,448,336] of the image at 0.5x.\n"
        "2 turns and 1 look left."
    )


def test_crops_are_printed_in_thousandths_where_the_config_says_so():
    view = View((1280, 960), (448, 336), "norm1000")
    message = prompts.crops_message([crop(640, 480, 960, 720)], view, 1, 0)
    assert message.splitlines()[0] == "Crop 1 shows [500,500,750,750] of the image at 3.2x."


def test_minimal_messages_hold_sizes_and_budget_only():
    config = EpisodeConfig(minimal_prompt=True, max_looks=2)
    assert prompts.task_prompt(VIEW, config, GRAMMAR) == "448x336, 2 looks"
    message = prompts.crops_message([crop(640, 480, 960, 720)], VIEW, 2, 1, minimal_prompt=True)
    assert message == "[224,168,336,252] 3.2x\n1 look"


def test_an_error_is_passed_on_with_what_is_left():
    message = prompts.error_message(ActionParseError("expected a tag, got 'x'", 3), 1, 2)
    assert "at character 3: expected a tag, got 'x'" in message
    assert message.endswith("1 turn and 2 looks left.")


def test_an_action_that_does_nothing_is_asked_for_a_look_or_an_answer():
    assert "Expected a look or an answer" in prompts.nudge_message(3, 2)
    assert prompts.nudge_message(1, 0) == "Expected an answer, got none. 1 turn and 0 looks left."
