"""Pictures of where a policy looks."""

import numpy as np
import pytest

from dip_agents.experiments.pictures import (
    AMBIGUOUS,
    CERTAIN,
    UNSURE,
    ambiguity_colour,
    looking_picture,
    looking_sheet,
)
from dip_agents.policies.base import CallablePolicy
from dip_env import Episode, EpisodeConfig, ToyScenes
from dip_env.errors import ConfigError
from dip_env.rendering import LOOK
from dip_wrappers.controls import no_image

CONFIG = EpisodeConfig(view_size=640)
SAID = "<look>[[200,100,400,300]]</look><answer>[]</answer>"


def say(text=SAID):
    return CallablePolicy(lambda transcript: text)


def test_colours_run_from_certain_over_unsure_to_ambiguous():
    assert [ambiguity_colour(w) for w in (0.0, 0.5, 1.0)] == [CERTAIN, UNSURE, AMBIGUOUS]
    # Half-way from (255, 190, 40) to (255, 48, 48).
    assert ambiguity_colour(0.75) == (255, 119, 44)


def test_looks_and_people_are_drawn_where_they_are():
    episode = no_image().episode(ToyScenes()[3], CONFIG)
    episode.step(SAID)
    picture = np.asarray(looking_picture(episode, 640))
    assert picture.shape == (480 + 24, 640, 3)
    # The look at 200..400 x 100..300 has its line at its border, and nothing in its middle.
    for x, y in ((300, 101), (300, 299), (201, 150), (399, 150)):
        assert tuple(picture[y, x]) == LOOK
    assert tuple(picture[150, 350]) == (128, 128, 128)
    # The tiny person at (311, 200, 317, 215), whose ambiguity is above one half.
    red, green, blue = picture[200, 314].tolist()
    assert red == 255 and 48 <= green <= 190 and blue < 60


def test_the_caption_names_what_was_covered():
    # Blank but for the caption: what differs between two captions is text.
    episode = Episode(ToyScenes()[2], CONFIG)
    quiet = np.asarray(looking_picture(episode, 320))[240:]
    episode.step(SAID)
    assert (np.asarray(looking_picture(episode, 320))[240:] != quiet).any()


def test_a_sheet_holds_a_picture_for_each_scene():
    sheet = looking_sheet(
        say(), ToyScenes(), range(4), EpisodeConfig(), columns=3, width=160, batch_size=3
    )
    # Two rows of 120 pixels and a caption of 24 each, gaps of 8, a legend of 30.
    assert sheet.size == (3 * 168 + 8, 30 + 2 * (144 + 8) + 8)
    alone = looking_sheet(say(), ToyScenes(), [1], EpisodeConfig(), width=160)
    # The second cell is the picture of scene 1, whichever batch it was played in.
    second = sheet.crop((8 + 168, 38, 8 + 168 + 160, 38 + 144))
    assert np.array_equal(second, alone.crop((8, 38, 168, 38 + 144)))


def test_bad_sizes_of_a_sheet_are_refused():
    for options, message in (
        ({"columns": 0}, "columns: expected at least 1, got 0"),
        ({"width": 63}, "width: expected at least 64, got 63"),
    ):
        with pytest.raises(ConfigError, match=message):
            looking_sheet(say(), ToyScenes(), [0], CONFIG, **options)
    with pytest.raises(ConfigError, match="indices: expected at least one scene, got none"):
        looking_sheet(say(), ToyScenes(), [], CONFIG)
