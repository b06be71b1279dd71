from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

import dip_env  # noqa: F401
from dip_agents.adapters import Task
from dip_agents.models.tiny.model import build_tiny
from dip_env.errors import ConfigError


def played_by_gymnasium(parity, seed, script):
    env = gym.make("DIPCrowd-v0", disable_env_checker=True, **parity.RULES)
    env.reset(seed=seed)
    reward = 0.0
    for text in script:
        _, paid, *_, info = env.step(text)
        reward += paid
    episode = env.unwrapped.episode
    shown = tuple(parity.shown(m.text, m.images) for m in episode.transcript if m.role == "user")
    return parity.Played(shown, reward, info["reward_terms"])


def test_a_task_plays_what_gymnasium_plays(parity, seed):
    played = [played_by_gymnasium(parity, seed, script) for script in parity.SCRIPTS]
    assert played == parity.expected_alone(seed)


def test_the_scripts_see_crops_and_errors_and_siblings_change_what_looks_earn(parity):
    alone, group = parity.expected_alone(1), parity.expected_group(1)
    assert [len(m.images) for m in alone[0].shown] == [1, 2]
    assert "expected" in alone[2].shown[1].text and "region" in alone[2].shown[2].text
    assert [a.shown for a in alone] == [g.shown for g in group]
    assert any(a.terms["look"] != g.terms["look"] for a, g in zip(alone, group, strict=True))
    assert any(a.reward > 0 for a in alone)


def test_a_task_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match="unknown keyword 'view'"):
        Task("toy", view=3)
    with pytest.raises(IndexError, match=r"expected 0\.\."):
        Task("toy").episode(10**6)


def test_texts_played_as_a_group_earn_what_its_members_earn_step_by_step(parity, seed):
    task = Task(**parity.RULES)
    group = task.play(task.scene_of(seed), parity.SCRIPTS)
    terms = [score.as_dict() for score in group.terms]
    assert terms == [one.terms for one in parity.expected_group(seed)]


def test_a_member_with_too_few_actions_has_not_answered():
    group = Task("toy").play(0, [["<think>a</think>"], [], ["<answer>[]</answer>"]])
    assert group.done
    assert [episode.answered for episode in group.episodes] == [False, False, True]


@pytest.fixture(scope="module")
def processor():
    """Of Qwen3-VL, whose limits each test sets."""
    return build_tiny(["Find every person"], size="micro")[1]


RULES = {"view_size": 128, "crop_size": 64}
SIDES = [(128, 128), (128, 32), (64, 64), (64, 32)]
"""Width and height of the largest and the smallest overview, then crop, under those rules."""
KEPT = (64 * 32, 128 * 128)
"""The tightest limits under which they keep their size."""


def limits(low, high):
    return {"shortest_edge": low, "longest_edge": high}


def resizes(processor, sides, **kwargs):
    """Whether the processor, called as trainers do, shows a picture in another size."""
    pictures = [torch.zeros((3, height, width), dtype=torch.uint8) for width, height in sides]
    out = processor(text=["<|image_pad|>" * len(sides)], images=pictures, **kwargs)
    shown = [(16 * w, 16 * h) for _, h, w in np.asarray(out["image_grid_thw"]).tolist()]
    return shown != sides


@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")
@pytest.mark.parametrize("low", [KEPT[0], KEPT[0] + 1, 64 * 64 + 1])
@pytest.mark.parametrize("high", [KEPT[1], KEPT[1] - 1])
@pytest.mark.parametrize("told", ["in the processor", "as size", "as pixels", "nested", "off"])
def test_a_processor_is_refused_where_it_would_resize_and_the_named_limits_work(
    processor, low, high, told
):
    processor.image_processor.size, kwargs = limits(1, 2**30), {}
    match told:
        case "in the processor":
            processor.image_processor.size = limits(low, high)
        case "as size":
            kwargs = {"size": limits(low, high)}
        case "as pixels":
            kwargs = {"min_pixels": low, "max_pixels": high}
        case "nested":
            kwargs = {"images_kwargs": {"size": limits(low, high)}}
        case "off":
            processor.image_processor.size, kwargs = limits(low, high), {"do_resize": False}
    task, asked = Task("toy", **RULES), kwargs if told != "in the processor" else None
    if not resizes(processor, SIDES, **kwargs):
        return task.check_processor(processor, asked)
    with pytest.raises(ConfigError, match=r"expected \d+ patches for an? .* got \d+") as refused:
        task.check_processor(processor, asked)
    where, *named = re.search(r"set (\S+) to \w+ (\d+), \w+ (\d+)$", str(refused.value)).groups()
    least, most = map(int, named)
    if told == "in the processor":
        assert where == "processor.image_processor.size"
        processor.image_processor.size = limits(least, most)
    else:
        assert where == "mm_processor_kwargs"
        kwargs = {"min_pixels": least, "max_pixels": most}
    assert not resizes(processor, SIDES, **kwargs)
    task.check_processor(processor, kwargs)


def test_the_refusal_names_the_picture_and_both_counts(processor):
    processor.image_processor.size = limits(64 * 64, 2**20)
    expected = (
        r"expected 8 patches for a crop of 64x32, got 24, as it resizes; "
        r"set processor.image_processor.size to shortest_edge 2048, longest_edge 1048576"
    )
    with pytest.raises(ConfigError, match=expected):
        Task("toy", **RULES).check_processor(processor)


@pytest.mark.parametrize("rules", [{"max_looks": 0}, {"max_turns": 1}])
def test_crops_that_nobody_sees_may_be_as_small_as_they_like(processor, rules):
    processor.image_processor.size = limits(64 * 64, 2**20)
    Task("toy", **RULES, **rules).check_processor(processor)
