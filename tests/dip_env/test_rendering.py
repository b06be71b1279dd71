from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from dip_env.episode import Episode
from dip_env.rendering import FALSE, LOOK, MATCHED, MISSED, render_frame, transcript_text


def colours(frame: np.ndarray, rows: slice = slice(0, 640)) -> set[tuple[int, ...]]:
    return set(map(tuple, frame[rows].reshape(-1, 3).tolist()))


def has(frame: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether a box of this colour is drawn above the caption."""
    return colour in colours(frame)


def test_a_frame_is_twice_the_view_with_a_caption(toy):
    frame = render_frame(Episode(toy[0]))
    assert frame.shape == (640 + 48, 896, 3)
    assert frame.dtype == np.uint8


def test_looks_are_drawn_where_they_were(toy):
    episode = Episode(toy[2])
    assert not has(render_frame(episode), LOOK)
    episode.step("<look>[[100,50,200,150]]</look>")
    frame = render_frame(episode)
    assert tuple(frame[200, 200]) == LOOK
    assert tuple(frame[200, 400]) == LOOK
    assert tuple(frame[200, 300]) != LOOK


def test_truth_is_drawn_with_a_score_only(toy):
    episode = Episode(toy[0])
    episode.step("<answer>[[28,66.67,84,226.67],[250,10,300,60]]</answer>")
    before, after = render_frame(episode), render_frame(episode, episode.score)
    assert not {MATCHED, FALSE, MISSED} & colours(before)
    assert {MATCHED, FALSE, MISSED} <= colours(after)
    # The found person's left edge at view x = 28, the missed one's at 196, the false box's at 250.
    assert tuple(after[300, 56]) == MATCHED
    assert tuple(after[300, 392]) == MISSED
    assert tuple(after[60, 500]) == FALSE


def test_wild_answers_can_be_drawn(toy):
    episode = Episode(toy[1])
    episode.step("<answer>[[999999999,5,-999999999,-5],[7,7,7,7],[5,90,2,3]]</answer>")
    assert has(render_frame(episode, episode.score), FALSE)


def test_the_transcript_shows_who_wrote_what_and_the_images(toy):
    episode = Episode(toy[0])
    episode.step("<think>é</think><look>[[20,60,100,240]]</look>")
    text = transcript_text(episode.transcript)
    assert text.startswith("[user]\n[image 448x320]\nFind every person")
    assert "[assistant]\n<think>é</think><look>" in text
    assert text.count("[image ") == 2
    # A crop stands behind its line, as a model reads it.
    assert re.search(r"\[user\]\nCrop 1 shows .*\n\[image \d+x\d+\]\n3 turns and 1 look left", text)


def test_environments_render_in_their_mode():
    env = gym.make("DIPCrowd-v0", scenes="toy", render_mode="rgb_array")
    env.reset(options={"scene": 0})
    during = env.render()
    env.step("<answer>[]</answer>")
    after = env.render()
    assert isinstance(during, np.ndarray)
    assert during.shape == after.shape
    assert not has(during, MISSED)
    assert has(after, MISSED)
    ansi = gym.make("DIPCrowd-v0", scenes="toy", render_mode="ansi")
    ansi.reset(options={"scene": 0})
    assert ansi.render().startswith("[user]\n[image 448x320]")


def test_rendering_without_a_mode_warns_and_returns_nothing():
    env = gym.make("DIPCrowd-v0", scenes="toy").unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None


def test_rendering_does_not_change_the_scene(toy):
    episode = Episode(toy[0])
    before = episode.scene.image.tobytes()
    render_frame(episode)
    assert episode.scene.image.tobytes() == before
    assert isinstance(episode.scene.image, Image.Image)
