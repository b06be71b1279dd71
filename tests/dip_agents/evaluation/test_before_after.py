"""Which scene stands for a training run, and the picture of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dip_agents.evaluation.before_after import (
    PANEL,
    MedianScene,
    draw_before_and_after,
    load_episode,
    median_scene,
)
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.policies.base import CallablePolicy
from dip_agents.policies.oracle import OraclePolicy
from dip_env import Episode, EpisodeConfig, ToyScenes
from dip_env.rendering import FALSE, LOOK, MATCHED, MISSED, TRUTH
from dip_wrappers.traces import ReplayMismatchError, TraceError

TOP = 92 + 34
"""Rows above the scenes: heading and title."""
HEIGHT = PANEL * 480 // 640
LEFT = "<look>[[0,0,56,320]]</look><answer>[]</answer>"


def say(text):
    return CallablePolicy(lambda transcript: text)


def result(covered, people, ambiguous=1.0, rollouts=1):
    """Return what the choice reads of an evaluation of scenes 10, 11, ..."""
    counters = {
        "covered": np.array(covered, dtype=np.float64) * rollouts,
        "truth": np.array(people, dtype=np.float64) * rollouts,
        "ambiguous": np.full(len(people), ambiguous * rollouts),
        "episodes": np.full(len(people), float(rollouts)),
    }
    score = SimpleNamespace(counters=counters)
    return SimpleNamespace(score=score, scene_indices=tuple(range(10, 10 + len(people))))


def test_the_scene_is_the_median_of_the_gains_among_scenes_with_three_people():
    # Gains .5, .1, .9, -.2, .3; the third scene holds two people only.
    before = result((0.2, 0.2, 0.0, 0.5, 0.1), (3, 5, 2, 9, 4))
    after = result((0.7, 0.3, 0.9, 0.3, 0.4), (3, 5, 2, 9, 4))
    # Of -.2, .1, .3, .5 the lower of the two in the middle.
    assert median_scene(before, after) == MedianScene(1, 11, pytest.approx(0.1), 4)
    # Backwards -.5, -.3, -.1, .2.
    assert median_scene(after, before).index == 14


def test_equal_gains_are_taken_in_the_order_of_the_scenes():
    same = result((0.4,) * 5, (3,) * 5, rollouts=2)
    assert median_scene(same, same) == MedianScene(2, 12, 0.0, 5)


def test_without_a_crowd_or_without_looks_there_is_no_scene_to_draw():
    assert median_scene(result((0.4,), (2,)), result((0.5,), (2,))) is None
    blind = result((0.0,), (7,), ambiguous=0.0)
    assert median_scene(blind, blind) is None


@pytest.fixture
def evaluated(tmp_path):
    source, rules = ToyScenes(), EpisodeConfig(max_looks=1)
    return source, [
        evaluate(policy, source, range(4), rules, out=tmp_path / name)
        for name, policy in (("before", say(LEFT)), ("after", OraclePolicy(source, rules)))
    ]


def test_the_episodes_that_were_measured_are_drawn_side_by_side(evaluated, tmp_path):
    source, results = evaluated
    chosen = median_scene(*results)
    assert (chosen.index, chosen.scenes) == (0, 1)  # the only one with three people
    before, after = (
        load_episode(tmp_path / name, chosen.index, source) for name in ("before", "after")
    )
    assert after.outcome.answered and len(after.crops) and not before.crops
    page = np.asarray(draw_before_and_after(before, after, chosen, "toy"))
    assert page.shape[1] == 2 * PANEL + 3 * 16
    scenes = page[TOP : TOP + HEIGHT]
    left, right = scenes[:, 16 : 16 + PANEL], scenes[:, 32 + PANEL : 32 + 2 * PANEL]
    # Everything is 800 / 640 as large as in the scene: the look before ends at x = 80.
    assert tuple(left[300, 99]) == LOOK
    # Nobody was answered: the edge of the middle person, at x = 280, is that of one missed.
    assert tuple(left[250, 350]) == MISSED
    colours = {tuple(pixel) for pixel in right.reshape(-1, 3).tolist()}
    assert {MATCHED, LOOK} <= colours and not {MISSED, FALSE} & colours
    # What is below the scene are the crops: none on the left.
    below = page[TOP + HEIGHT + 16 + 24 : -16]
    assert below[:, 32 + PANEL :].std() > 10 > below[:, : 16 + PANEL].std()


def test_right_and_wrong_boxes_and_people_have_their_colours():
    source = ToyScenes()
    episode = Episode(source[0], EpisodeConfig(view_size=640))
    # The left person 10 pixels too far to the right, and a box where nobody is.
    episode.step("<answer>[[50,100,130,340],[400,20,440,60]]</answer>")
    page = np.asarray(draw_before_and_after(episode, episode, MedianScene(0, 0, 0.0, 1), "toy"))
    scene = page[TOP : TOP + HEIGHT, 16 : 16 + PANEL]
    assert tuple(scene[250, 62]) == MATCHED and tuple(scene[250, 50]) == TRUTH
    assert tuple(scene[50, 500]) == FALSE and tuple(scene[300, 625]) == MISSED


def test_wild_answers_and_many_crops_can_be_drawn():
    rules = EpisodeConfig(max_regions=7)
    many, none = Episode(ToyScenes()[1], rules), Episode(ToyScenes()[1], rules)
    regions = ",".join(f"[{x},0,{x + 50},60]" for x in range(0, 350, 50))
    many.step(f"<look>[{regions}]</look>")
    many.step("<answer>[[999999999,5,-999999999,-5],[7,7,7,7],[5,90,2,3]]</answer>")
    none.step("<answer>[]</answer>")
    chosen = MedianScene(0, 1, 0.5, 1)
    assert draw_before_and_after(many, none, chosen, "toy").size == (
        draw_before_and_after(none, many, chosen, "toy").size
    )


def test_an_episode_that_was_not_played_or_plays_otherwise_is_named(evaluated, tmp_path):
    source, _ = evaluated
    with pytest.raises(TraceError, match="expected an episode on scene 9, found none"):
        load_episode(tmp_path / "before", 9, source)
    others = [source[1], source[0]]
    with pytest.raises(ReplayMismatchError, match="scene id"):
        load_episode(tmp_path / "before", 0, others)


def test_an_unfinished_episode_cannot_be_drawn():
    episode = Episode(ToyScenes()[0])
    with pytest.raises(ValueError, match="expected a finished episode"):
        draw_before_and_after(episode, episode, MedianScene(0, 0, 0.0, 1), "toy")
