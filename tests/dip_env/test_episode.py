from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_env.actions import Answer, Look, Think
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.episode import Episode
from dip_env.errors import EpisodeOverError
from dip_env.scenes import ToyScenes
from dip_env.scenes.base import Scene

LOOK = "<think>there?</think><look>[[20,60,100,240]]</look>"
EMPTY = "<answer>[]</answer>"


def truth_as_answer(episode: Episode) -> str:
    boxes = episode.view.scene_to_text(episode.scene.truth).round(2)
    return f"<answer>{json.dumps(boxes.tolist())}</answer>"


def test_the_first_message_holds_overview_and_task(toy):
    episode = Episode(toy[0], EpisodeConfig(view_size=448, size_multiple=32))
    observation = episode.observation()
    (message,) = observation.messages
    # 640 x 480 on 448 with multiples of 32: 336 is not one, the nearest below is 320.
    assert message.role == "user"
    assert message.images[0].shape == (320, 448, 3)
    assert message.images[0].dtype == np.uint8
    assert "448x320" in message.text
    assert (observation.turn, observation.looks_left, observation.turns_left) == (0, 2, 4)
    assert observation.scene_index is None


def test_the_overview_is_made_once(toy):
    episode = Episode(toy[0])
    first = episode.observation().messages[0].images[0]
    episode.step(LOOK)
    assert episode.observation().messages[0].images[0] is first


def test_the_image_is_not_loaded_before_somebody_looks(toy):
    def fail() -> Image.Image:
        raise AssertionError("the image was loaded")

    episode = Episode(replace(toy[0], load_image=fail))
    turn = episode.step("<think>blind</think>" + truth_as_answer(episode))
    assert turn.result.terms.accuracy == 1


def test_a_look_brings_crops_of_source_pixels_and_a_message(toy):
    episode = Episode(toy[0], scene_index=0)
    turn = episode.step(LOOK)
    (crop,) = turn.crops
    # Text and view are 448 x 320 here, the scene 640 x 480: x grows by 10/7, y by 3/2.
    assert crop.region == pytest.approx([20 / 0.7, 90, 100 / 0.7, 360])
    assert all(side % 32 == 0 for side in crop.image.shape[:2])
    assert turn.message is not None
    assert turn.message.role == "user"
    assert turn.message.images[0] is crop.image
    assert "Crop 1 shows [20,60,100,240]" in turn.message.text
    assert (turn.reward, turn.terminated, turn.truncated) == (0, False, False)
    assert turn.parse_error is None
    assert turn.segments == (Think("there?"), Look([[20, 60, 100, 240]]))
    assert turn.result is None
    observation = episode.observation()
    assert [m.role for m in observation.messages] == ["user", "assistant", "user"]
    assert observation.messages[1].text == LOOK
    assert (observation.turn, observation.looks_left, observation.turns_left) == (1, 1, 3)
    assert len(observation.crops) == 1
    assert observation.scene_index == 0


def test_a_crop_shows_what_the_overview_hides(toy):
    # Stripes of one source pixel blur to grey in the overview; a crop must show them.
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    episode = Episode(replace(toy[2], load_image=lambda: Image.fromarray(stripes)))
    crop = episode.step("<look>[[100,100,140,140]]</look>").crops[0]
    assert np.ptp(episode.opening.images[0][100:140, 100:140]) < 130
    assert np.ptp(crop.image) == 255


def test_crops_are_numbered_through_the_episode(toy):
    episode = Episode(toy[0])
    episode.step("<look>[[0,0,100,100],[100,100,200,200]]</look>")
    turn = episode.step("<look>[[0,0,100,100]]</look>")
    assert turn.message is not None
    assert turn.message.text.startswith("Crop 3 shows")
    assert len(episode.observation().crops) == 3


def test_the_line_that_tells_of_a_crop_stands_before_it(toy):
    episode = Episode(toy[0])
    turn = episode.step("<think>?</think><look>[[20,60,100,240],[0,0,50,50]]</look>")
    before_first, first, before_second, second, left = turn.message.parts
    assert before_first.startswith("Crop 1 shows [20,60,100,240]")
    assert before_second.startswith("\nCrop 2 shows [0,0,50,50]")
    assert (first is turn.crops[0].image, second is turn.crops[1].image) == (True, True)
    assert left == "\n3 turns and 1 look left."
    overview, prompt = episode.observation().messages[0].parts
    assert overview is episode.observation().messages[0].images[0]
    assert prompt.startswith("Find every person")


def test_several_looks_in_one_action_count_each(toy):
    episode = Episode(toy[0])
    turn = episode.step("<look>[[0,0,9,9]]</look><think>and</think><look>[[50,50,90,90]]</look>")
    assert len(turn.crops) == 2
    assert episode.looks_left == 0


def test_the_truth_as_an_answer_earns_accuracy_1_and_prints_back(toy):
    episode = Episode(toy[0])
    episode.step(LOOK)
    turn = episode.step(truth_as_answer(episode))
    assert (turn.terminated, turn.truncated, turn.message) == (True, False, None)
    terms = turn.result.terms.as_dict()
    assert terms["accuracy"] == 1
    assert terms["format"] == 1
    assert turn.reward == pytest.approx(
        0.1 * terms["format"] + 0.1 * terms["look"] + 0.8 * terms["accuracy"]
    )
    assert turn.result.answer_boxes == pytest.approx(turn.result.truth_boxes, abs=0.005)
    assert turn.result.matches.pred.tolist() == [0, 1, 2]
    again = Episode(toy[0])
    boxes = turn.result.answer_boxes.round(2).tolist()
    assert again.step(f"<answer>{json.dumps(boxes)}</answer>").result.terms.accuracy == 1


def test_weights_of_the_config_make_the_total(toy):
    config = EpisodeConfig(reward=RewardConfig(format_weight=0, look_weight=0, accuracy_weight=2.0))
    episode = Episode(toy[0], config)
    assert episode.step(truth_as_answer(episode)).reward == 2.0


def test_norm1000_answers_mean_thousandths(toy):
    episode = Episode(toy[0], EpisodeConfig(coordinate_format="norm1000"))
    # (40, 100, 120, 340) of 640 x 480.
    turn = episode.step("<answer>[[62.5,208.33,187.5,708.33]]</answer>")
    assert len(turn.result.matches.pred) == 1
    assert turn.result.answer_boxes == pytest.approx(turn.result.truth_boxes[:1], abs=0.01)


def test_look_and_answer_in_one_action_counts_the_look_and_shows_nothing(toy):
    apart, together = Episode(toy[1]), Episode(toy[1])
    look, answer = "<think>x</think><look>[[60,70,150,290]]</look>", truth_as_answer(apart)
    apart.step(look)
    expected = apart.step(answer)
    turn = together.step(look + answer)
    assert turn.crops == ()
    assert together.observation().crops == ()
    assert turn.result.terms.as_dict() == expected.result.terms.as_dict()
    assert turn.result.terms.look > 0
    assert together.looks == pytest.approx(apart.looks)


def test_ignore_regions_are_kept_apart_from_the_ground_truth(toy):
    episode = Episode(toy[1])
    turn = episode.step("<answer>[[300,45,340,75]]</answer>")
    assert len(turn.result.truth_boxes) == 2
    assert turn.result.ignore_boxes.tolist() == [pytest.approx([280, 40, 434, 80])]
    assert turn.result.matches.dropped.tolist() == [0]


def test_an_empty_answer_is_right_where_nobody_is(toy):
    assert Episode(toy[2]).step(EMPTY).result.terms.accuracy == 1
    assert Episode(toy[0]).step(EMPTY).result.terms.accuracy == 0


def test_a_malformed_action_costs_a_turn_and_says_what_was_expected_and_what_came(toy):
    episode = Episode(toy[0])
    turn = episode.step("two people")
    assert turn.segments is None and turn.result is None and turn.waiting is None
    assert "expected <think>" in turn.parse_error
    assert "'two people'" in turn.parse_error
    assert turn.message is not None
    assert turn.parse_error in turn.message.text
    assert episode.turns_left == 3
    assert (turn.reward, turn.terminated, turn.truncated) == (0, False, False)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("<look>[[449,0,500,300]]</look>", "area inside 0,0,448,320, got 449,0,500,300"),
        ("<look>[[0,320,100,400]]</look>", "area inside"),
        ("<look>[[10,10,10,50]]</look>", "area inside 0,0,448,320, got 10,10,10,50"),
        ("<look>[[50,50,10,10]]</look>", "area inside"),
        ("<look>[[0,0,9,9],[500,0,600,9]]</look>", "area inside"),
        ("<look>[[0,0,9,9]]</look>" * 3, "at most 2 more looks, got 3"),
    ],
)
def test_a_look_that_cannot_be_had_costs_a_turn_and_no_look(toy, action, message):
    episode = Episode(toy[0])
    turn = episode.step(action)
    assert message in turn.parse_error
    assert turn.message is not None
    assert message in turn.message.text
    assert turn.segments is None
    assert turn.crops == ()
    assert (episode.looks_left, episode.turns_left, len(episode.looks)) == (2, 3, 0)


def test_a_refused_look_leaves_the_answer_of_its_action_unheard(toy):
    episode = Episode(toy[0])
    turn = episode.step("<look>[[500,0,600,9]]</look>" + EMPTY)
    assert not turn.terminated
    assert not episode.done
    assert not episode.answered


def test_a_look_beyond_the_budget_is_refused(toy):
    episode = Episode(toy[0], EpisodeConfig(max_looks=1))
    episode.step(LOOK)
    turn = episode.step(LOOK)
    assert turn.parse_error == "expected at most 0 more looks, got 1"


def test_a_refused_turn_counts_as_malformed_for_the_format_term(toy):
    refused, clean = Episode(toy[0]), Episode(toy[0])
    refused.step("<look>[[500,0,600,9]]</look>")
    for episode in (refused, clean):
        episode.step(LOOK)
    assert refused.step(EMPTY).result.terms.format == 0
    assert clean.step(EMPTY).result.terms.format == 1


def test_thinking_alone_costs_a_turn_and_is_asked_for_more(toy):
    episode = Episode(toy[0])
    turn = episode.step("<think>hm</think>")
    assert turn.parse_error is None and turn.segments == (Think("hm"),)
    assert turn.result is None and turn.waiting is None
    assert turn.message is not None
    assert "Expected a look or an answer" in turn.message.text
    assert episode.turns_left == 3


def test_running_out_of_turns_is_scored_with_an_empty_answer(toy):
    episode = Episode(toy[0], EpisodeConfig(max_turns=3))
    for _ in range(2):
        assert not episode.step("<think>hm</think>").truncated
    turn = episode.step(LOOK)
    assert (turn.terminated, turn.truncated, turn.message) == (False, True, None)
    assert turn.result is not None
    assert turn.result.answer_boxes.shape == (0, 4)
    assert turn.result.terms.accuracy == 0
    assert turn.result.terms.format == 0
    assert episode.done
    assert not episode.answered


def test_an_answer_in_the_last_turn_terminates(toy):
    episode = Episode(toy[0], EpisodeConfig(max_turns=1))
    turn = episode.step(EMPTY)
    assert (turn.terminated, turn.truncated) == (True, False)


@pytest.mark.parametrize("action", [None, 3, b"<answer>[]</answer>", ["<answer>[]</answer>"]])
def test_an_action_that_is_no_string_is_an_error_and_changes_nothing(toy, action):
    episode = Episode(toy[0])
    with pytest.raises(TypeError, match="expected str, got"):
        episode.step(action)
    assert episode.turn == 0


def test_acting_after_the_end_is_an_error(toy):
    episode = Episode(toy[0])
    episode.step(EMPTY)
    with pytest.raises(EpisodeOverError, match="has ended"):
        episode.step(EMPTY)
    with pytest.raises(EpisodeOverError, match="has ended"):
        episode.abandon()


def test_a_bug_in_the_world_is_no_bad_action(toy):
    def broken() -> Image.Image:
        raise ValueError("a bug of ours")

    episode = Episode(replace(toy[0], load_image=broken))
    with pytest.raises(ValueError, match="a bug of ours"):
        episode.step(LOOK)


def test_an_abandoned_episode_is_truncated_and_scored_with_an_empty_answer(toy):
    episode = Episode(toy[2])
    episode.step(LOOK)
    turn = episode.abandon()
    assert (turn.terminated, turn.truncated) == (False, True)
    assert turn.result.terms.accuracy == 1
    assert turn.result.terms.format == 0


def test_an_inverted_box_finds_nobody_and_counts_as_false(toy):
    turn = Episode(toy[0]).step("<answer>[[84,226.67,28,66.67]]</answer>")
    assert turn.result.matches.unmatched_pred.tolist() == [0]


def test_an_advanced_episode_tells_neither_reward_nor_truth(toy):
    episode = Episode(toy[0])
    turn = episode.advance(truth_as_answer(episode))
    assert turn.terminated
    assert turn.reward == 0
    assert turn.result is None
    assert episode.outcome.answered
    assert episode.outcome.answer == pytest.approx(episode.scene.truth, abs=0.02)


def test_the_prompt_depends_on_the_view_and_the_rules_only(toy):
    texts = {Episode(toy[i]).opening.text for i in range(4)}
    assert len(texts) == 1


def test_a_region_that_runs_over_the_border_is_clipped(toy):
    crop = Episode(toy[0]).step("<look>[[-50,-50,112,80]]</look>").crops[0]
    assert crop.region == pytest.approx([0, 0, 160, 120])


def test_the_first_message_can_be_shared(toy):
    first = Episode(toy[0])
    second = Episode(toy[0], opening=first.opening)
    assert second.opening is first.opening


def test_truth_that_runs_outside_the_image_can_be_found(toy):
    box = np.array([[-40, 100, 60, 300]], np.float32)
    scene = Scene(
        scene_id="edge",
        size=(640, 480),
        boxes=box,
        visible_boxes=np.array([[0, 100, 60, 300]], np.float32),
        visible_share=np.array([0.6], np.float32),
        ignore=np.zeros(1, bool),
        labels=("person",),
        load_image=lambda: toy[0].image,
    )
    inside, whole = Episode(scene), Episode(scene)
    view = inside.view.scene_to_view([[0, 100, 60, 300]])
    turn = inside.step(f"<answer>{json.dumps(view.round(2).tolist())}</answer>")
    assert turn.result.terms.accuracy == 1
    assert whole.step(truth_as_answer(whole)).result.terms.accuracy == 1


def test_an_answer_segment_is_in_the_text_frame(toy):
    turn = Episode(toy[0]).step("<answer>[[1,2,3,4]]</answer>")
    assert turn.segments == (Answer([[1, 2, 3, 4]]),)


coordinates = st.one_of(
    st.integers(-10, 500), st.floats(-10, 500).map(lambda v: round(v, 9)), st.just(999_999_999)
)
regions = st.lists(st.lists(coordinates, min_size=4, max_size=4), min_size=1, max_size=3)
tags = ("<think>", "</think>", "<look>", "</look>", "<answer>", "</answer>")
scraps = ("[", "]", "[[1,2,30,40]]", ",", "{", "}", '"bbox_2d":', " ", "-1", "1e9", "NaN", "é")
pieces = st.sampled_from((*tags, *scraps, "🙂", "\ud800", "\x00"))


@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=12).map("".join)))
def test_no_text_raises_or_leaves_the_range_of_rewards(action):
    episode = Episode(ToyScenes()[1], EpisodeConfig(max_turns=2))
    while not episode.done:
        turn = episode.step(action)
        assert 0 <= turn.reward <= 1
        assert (turn.message is None) == episode.done
        assert (turn.segments is None) == (turn.parse_error is not None)


@given(regions, st.sampled_from([(640, 480), (37, 1000), (5, 3), (1, 1), (4000, 90)]))
def test_any_look_is_refused_or_shows_a_region_inside_the_image(boxes, size):
    scene = replace(ToyScenes()[2], size=size, load_image=lambda: Image.new("RGB", size))
    episode = Episode(scene)
    turn = episode.step(f"<look>{boxes}</look>")
    assert len(turn.crops) == (len(boxes) if turn.parse_error is None else 0)
    for crop in turn.crops:
        x1, y1, x2, y2 = crop.region
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        assert all(32 <= side <= 224 and side % 32 == 0 for side in crop.image.shape[:2])
