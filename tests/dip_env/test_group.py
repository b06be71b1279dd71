from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError, EpisodeOverError
from dip_env.group import EpisodeGroup

LEFT = [28.0, 66.67, 84.0, 226.67]
RIGHT = [350.0, 53.33, 420.0, 266.67]
LOOK_LEFT = "<think>t</think><look>[[28,66,84,227]]</look>"
EMPTY = "<answer>[]</answer>"


def answer(*boxes: list[float]) -> str:
    return f"<answer>{json.dumps(boxes)}</answer>"


def test_members_share_scene_prompt_and_overview(toy):
    group = EpisodeGroup(toy[0], group_size=4, scene_index=0)
    first = [episode.observation() for episode in group.episodes]
    assert all(o.messages[0] is first[0].messages[0] for o in first)
    assert all(o.scene_index == 0 for o in first)


def test_members_wait_and_end_together(toy):
    group = EpisodeGroup(toy[0], group_size=3)
    turns = group.step([answer(LEFT), LOOK_LEFT, "nonsense"])
    assert [t.waiting for t in turns] == [True, False, False]
    assert not any(t.terminated or t.truncated or t.reward for t in turns)
    assert all(t.result is None for t in turns)
    turns = group.step([None, answer(LEFT, RIGHT), "<think>x</think>"])
    assert [t.waiting for t in turns] == [True, True, False]
    assert not group.done
    turns = group.step([None, "ignored", EMPTY])
    assert group.done
    assert all(t.terminated and not t.truncated for t in turns)
    assert [t.waiting for t in turns] == [False] * 3
    assert all(t.result is not None for t in turns)
    # F1 of one of three, two of three and none: 2 * 1 / (1 + 3), 2 * 2 / (2 + 3), 0.
    accuracy = [t.result.terms.accuracy for t in turns]
    assert accuracy == pytest.approx([0.5, 0.8, 0.0])
    assert [t.result.terms.as_dict() for t in turns] == [x.as_dict() for x in group.terms]


def test_actions_of_waiting_members_change_nothing(toy):
    quiet, loud = (EpisodeGroup(toy[0], group_size=3) for _ in range(2))
    for group, noise in ((quiet, None), (loud, answer(RIGHT))):
        group.step([answer(LEFT), LOOK_LEFT, LOOK_LEFT])
        turns = group.step([noise, EMPTY, EMPTY])
        assert len(group.episodes[0].transcript) == 2
        assert turns[0].result.answer_boxes.tolist() == [LEFT]
    assert quiet.terms == loud.terms


def test_the_look_term_is_measured_on_the_siblings(toy):
    # Members 1..3 disagree about the left person only, which is what member 0 looks at.
    group = EpisodeGroup(toy[0], group_size=4)
    turns = group.step([LOOK_LEFT + EMPTY, answer(LEFT, RIGHT), answer(RIGHT), answer(RIGHT)])
    right = "<think>t</think><look>[[350,53,420,267]]</look>"
    other = EpisodeGroup(toy[0], group_size=4)
    away = other.step([right + EMPTY, answer(LEFT, RIGHT), answer(RIGHT), answer(RIGHT)])
    # One of three finds her, 4 * 1/3 * 2/3 of a fully ambiguous person, less the look's area.
    assert 0.8 < turns[0].result.terms.look < 8 / 9
    assert away[0].result.terms.look == 0


def test_a_group_of_one_is_rewarded_like_an_episode(toy):
    group, episode = EpisodeGroup(toy[1], group_size=1), Episode(toy[1])
    for action in ("<look>[[60,70,150,290]]</look>", "oops", answer([70, 80, 140, 280])):
        (turn,), alone = group.step([action]), episode.step(action)
        assert turn.reward == alone.reward
        assert (turn.terminated, turn.truncated) == (alone.terminated, alone.truncated)
        assert turn.parse_error == alone.parse_error
        assert (turn.result is None) == (alone.result is None)
    assert turn.result.terms == alone.result.terms
    assert turn.reward > 0


def test_a_member_without_an_answer_is_truncated_beside_terminated_siblings(toy):
    group = EpisodeGroup(toy[0], EpisodeConfig(max_turns=2), group_size=2)
    group.step(["<think>x</think>", EMPTY])
    turns = group.step(["<think>x</think>", None])
    assert [(t.terminated, t.truncated) for t in turns] == [(False, True), (True, False)]


def test_an_abandoned_member_does_not_hold_up_the_others(toy):
    group = EpisodeGroup(toy[0], group_size=2)
    group.step([LOOK_LEFT, LOOK_LEFT])
    group.abandon(0)
    assert not group.done
    turns = group.step([None, answer(LEFT)])
    assert group.done
    assert [(t.terminated, t.truncated) for t in turns] == [(False, True), (True, False)]


def test_abandoning_the_last_member_scores_the_group(toy):
    group = EpisodeGroup(toy[0], group_size=2)
    group.step([answer(LEFT), LOOK_LEFT])
    assert group.terms == []
    group.abandon(1)
    assert [terms.accuracy for terms in group.terms] == pytest.approx([0.5, 0])


def test_a_wrong_call_leaves_every_member_as_it_was(toy):
    group = EpisodeGroup(toy[0], group_size=2)
    with pytest.raises(ValueError, match="actions: expected 2, got 1"):
        group.step([EMPTY])
    with pytest.raises(TypeError, match=r"actions\[1\]: expected str, got NoneType"):
        group.step([EMPTY, None])
    assert [episode.turn for episode in group.episodes] == [0, 0]


def test_stepping_after_the_end_is_an_error(toy):
    group = EpisodeGroup(toy[0], group_size=1)
    group.step([EMPTY])
    with pytest.raises(EpisodeOverError, match="group has ended"):
        group.step([EMPTY])


def test_a_group_needs_a_member(toy):
    with pytest.raises(ConfigError, match="group_size: expected an integer >= 1, got 0"):
        EpisodeGroup(toy[0], group_size=0)


def test_no_answer_after_a_look_moves_the_term_of_that_look(toy):
    branches = np.array([0, 0, 1, 1])
    terms = set()
    for own in (answer(LEFT), answer(RIGHT), EMPTY):
        group = EpisodeGroup(toy[0], group_size=4, siblings=branches[:, None] != branches)
        group.step([LOOK_LEFT] * 4)
        turns = group.step([own, answer(LEFT), answer(LEFT), EMPTY])
        terms.add((turns[0].result.terms.look, turns[1].result.terms.look))
    # One of the two other answers finds the left person, whatever the own ones say.
    ((first, second),) = terms
    assert first == second > 0.8


def test_two_members_of_other_branches_are_enough_to_disagree_and_one_is_not(toy):
    # With fewer the prior is asked, which does not depend on what siblings answer.
    for branches, moved in (([0, 0, 1, 1], True), ([0, 0, 0, 1], False)):
        table = np.array(branches)[:, None] != np.array(branches)
        looks = set()
        for other in (answer(LEFT), EMPTY):
            group = EpisodeGroup(toy[0], group_size=4, siblings=table)
            group.step([LOOK_LEFT] * 4)
            turns = group.step([EMPTY, EMPTY, EMPTY, other])
            looks.add(turns[0].result.terms.look)
        assert (len(looks) > 1) == moved


def test_members_can_start_in_their_own_ways(toy):
    class Marked(Episode):
        pass

    group = EpisodeGroup(toy[0], group_size=3, new_episode=[Episode, Marked, partial(Episode)])
    assert [type(episode) for episode in group.episodes] == [Episode, Marked, Episode]
    assert group.episodes[1].opening is group.episodes[0].opening
    with pytest.raises(ValueError, match="new_episode: expected 3, got 2"):
        EpisodeGroup(toy[0], group_size=3, new_episode=[Episode, Episode])
