import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.policies.oracle_looks import AmbiguousTiles, RandomTiles
from dip_agents.sft.demonstrations import (
    DemonstrationDataset,
    DemonstrationShares,
    play_demonstration,
)
from dip_env.episode import Episode
from dip_wrappers.controls import random_looks


@pytest.fixture
def data(micro, toy, minimal_prompt_rules):
    return DemonstrationDataset(
        toy, 4, minimal_prompt_rules, OracleConfig(), micro("qwen3_vl").chat
    )


def test_a_demonstration_is_the_conversation_of_the_demonstrator(
    data, micro, minimal_prompt_rules, toy
):
    chat = micro("qwen3_vl").chat
    demonstration = data[0]
    spoken = [
        i
        for i, m in zip(demonstration.buffer.ids, demonstration.buffer.loss_mask, strict=True)
        if m
    ]
    first, second, rest = (
        chat.tokenizer.decode(spoken).replace("<|im_end|>", "\n").split("\n", maxsplit=2)
    )
    assert rest == ""
    episode = Episode(toy[0], minimal_prompt_rules)
    episode.step(first)
    terms = episode.step(second).result.terms.as_dict()
    assert terms["format"] == terms["accuracy"] == 1.0


def test_boxes_lie_in_the_pixels_of_their_image(data):
    demonstration = data[0]
    assert len(demonstration.boxes) == len(demonstration.buffer.images) >= 2
    # Scene 0 is 640 x 480, its overview 128 x 96: a fifth of every number.
    np.testing.assert_allclose(demonstration.boxes[0][0], [8, 20, 24, 68])
    for image, boxes in zip(demonstration.buffer.images, demonstration.boxes, strict=True):
        _, h, w = image.grid
        assert (boxes >= 0).all()
        assert (boxes <= np.array([w, h, w, h]) * 16).all()


def test_a_scene_is_made_once_for_its_episode_and_its_demonstrator(
    counting_scenes, micro, minimal_prompt_rules
):
    source = counting_scenes()
    data = DemonstrationDataset(
        source, 3, minimal_prompt_rules, OracleConfig(), micro("qwen3_vl").chat
    )
    for index in (0, 2, 1):
        data[index]
    assert source.made == [0, 2, 1]


def test_the_demonstrator_keeps_annotations_and_no_pixels(toy, minimal_prompt_rules):
    policy = OraclePolicy(toy, minimal_prompt_rules)
    policy.act([Episode(toy[0], minimal_prompt_rules, scene_index=0).observation()], [0])
    kept = policy._scene(0)
    assert "image" not in vars(kept)  # a cached property that nobody asked for
    assert np.array_equal(kept.truth, toy[0].truth)
    assert np.array_equal(np.asarray(kept.image), np.asarray(toy[0].image))


def test_demonstrations_repeat(data):
    assert data[1].buffer.ids == data[1].buffer.ids
    assert len(data) == 4


@pytest.fixture
def reading(micro, toy, minimal_prompt_rules):
    demonstrator = OracleConfig(min_visible_height=8.0)
    chat = micro("qwen3_vl").chat
    return DemonstrationDataset(
        toy,
        4,
        minimal_prompt_rules,
        demonstrator,
        chat,
        shares=DemonstrationShares(p_blurred_overview=1.0),
    )


def test_a_blurred_demonstration_hides_in_the_overview_what_its_crops_show(reading, data):
    blurred, plain = reading[0].buffer, data[0].buffer
    assert blurred.images[0].key != plain.images[0].key
    # A Gaussian of 4 pixels flattens edges of people who are 16 pixels wide.
    steps = [
        np.abs(np.diff(b.images[0].pixels.astype(float), axis=1)).max() for b in (blurred, plain)
    ]
    assert steps[0] < steps[1] / 4
    assert [image.key for image in blurred.images[1:]] == [image.key for image in plain.images[1:]]


def test_the_looks_of_a_blurred_demonstration_are_given_and_its_answer_is_learned(reading, micro):
    buffer = reading[0].buffer
    learned = [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
    text = micro("qwen3_vl").chat.tokenizer.decode(learned)
    assert "<look>" not in text
    assert text.count("<answer>") == 1


def test_who_is_only_blurred_is_neither_answered_nor_a_dense_target_of_the_overview(
    micro, toy, minimal_prompt_rules
):
    chat = micro("qwen3_vl").chat
    # People are 48, 36 and 64 pixels tall in the overview, which counts as a quarter of that.
    one_region = replace(minimal_prompt_rules, max_regions=1)
    demonstrator = OracleConfig(min_visible_height=13.0)
    demonstration = DemonstrationDataset(
        toy,
        4,
        one_region,
        demonstrator,
        chat,
        shares=DemonstrationShares(p_blurred_overview=1.0),
    )[0]
    assert (
        demonstration.boxes[0].tolist() == demonstration.in_view[0].tolist() == [[100, 16, 120, 80]]
    )
    text = chat.tokenizer.decode(demonstration.buffer.ids)
    (answer,) = re.findall(r"<answer>(.*)</answer>", text)
    answered = json.loads(answer)
    shown = {tuple(box) for box in demonstration.in_view[1].round().tolist()}
    assert [100, 16, 120, 80] in answered
    assert {tuple(box) for box in answered} == shown | {(100, 16, 120, 80)}
    assert len(answered) < 3


@pytest.fixture
def given(micro, toy, minimal_prompt_rules):
    def make(look=RandomTiles(), **plan):  # noqa: B008 (frozen, without fields)
        rules = replace(minimal_prompt_rules, crop_size=64)
        chat = micro("qwen3_vl").chat
        return DemonstrationDataset(
            toy, 4, rules, OracleConfig(look=look), chat, shares=DemonstrationShares(**plan)
        )

    return make


def test_a_given_look_shows_the_ambiguous_and_only_the_answer_is_learned(given, micro):
    reading, tiles = given(p_given_look=1.0), given(look=AmbiguousTiles())
    buffer, learned_too = reading[0].buffer, tiles[0].buffer
    decode = micro("qwen3_vl").chat.tokenizer.decode
    learned = [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
    assert buffer.ids == learned_too.ids
    assert [i.key for i in buffer.images] == [i.key for i in learned_too.images]
    assert "<look>" not in decode(learned) and decode(learned).count("<answer>") == 1


def test_random_looks_are_learned_where_they_are_not_given(given, micro):
    buffer = given()[0].buffer
    learned = [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
    assert "<look>" in micro("qwen3_vl").chat.tokenizer.decode(learned)
    assert buffer.ids != given(look=AmbiguousTiles())[0].buffer.ids


def test_given_looks_take_their_magnifications_in_turns(given, micro):
    data = given(p_given_look=1.0, magnifications=(4.0, 2.0))
    decode = micro("qwen3_vl").chat.tokenizer.decode
    sides = []
    for index in range(4):
        (look,) = re.findall(r"<look>(.*)</look>", decode(data[index].buffer.ids))
        sides += [{x2 - x1 for x1, _, x2, _ in json.loads(look)}]
    assert sides == [{16}, {32}, {16}, {32}]


def test_demonstrations_are_divided_between_forms(micro, toy, minimal_prompt_rules):
    chat = micro("qwen3_vl").chat
    made = DemonstrationDataset(
        toy,
        4,
        minimal_prompt_rules,
        OracleConfig(),
        chat,
        shares=DemonstrationShares(p_no_look=0.25, p_blurred_overview=0.5),
    )
    plain = DemonstrationDataset(toy, 4, minimal_prompt_rules, OracleConfig(), chat)
    images = [made[index].buffer.images for index in range(4)]
    # Multiples of the golden ratio: .0 and .236 are under .25, .618 is under .75, .854 is not.
    assert [len(shown) == 1 for shown in images] == [True, False, True, False]
    same = [images[i][0].key == plain[i].buffer.images[0].key for i in (1, 3)]
    assert same == [False, True]


@pytest.mark.parametrize("rules", [{"max_looks": 0}, {"max_turns": 1}])
def test_nothing_is_blurred_where_no_look_can_make_up_for_it(
    micro, toy, minimal_prompt_rules, rules
):
    chat, config = micro("qwen3_vl").chat, replace(minimal_prompt_rules, **rules)
    demonstrator = OracleConfig(min_visible_height=13.0)
    blurred = DemonstrationDataset(
        toy, 4, config, demonstrator, chat, shares=DemonstrationShares(p_blurred_overview=1.0)
    )
    plain = DemonstrationDataset(toy, 4, config, demonstrator, chat)
    assert blurred[0].buffer.ids == plain[0].buffer.ids
    assert blurred[0].buffer.images[0].key == plain[0].buffer.images[0].key


def test_a_demonstration_under_a_control_holds_the_looks_that_were_taken(
    micro, toy, minimal_prompt_rules
):
    chat = micro("qwen3_vl").chat
    demonstration = play_demonstration(
        toy[0],
        0,
        minimal_prompt_rules,
        OraclePolicy(toy, minimal_prompt_rules),
        chat,
        0,
        control=random_looks(),
    )
    text = chat.tokenizer.decode(demonstration.buffer.ids)
    (look,) = re.findall(r"<look>(.*?)</look>", text)
    captions = re.findall(r"(\[[0-9,]+\]) [0-9.]+x", text)
    # What is shown was grown to an aspect that crops can have, so it holds the region.
    regions = np.array(json.loads(look))
    shown = np.array([json.loads(caption) for caption in captions])
    assert (shown[:, :2] <= regions[:, :2]).all() and (shown[:, 2:] >= regions[:, 2:]).all()
