from __future__ import annotations

import gymnasium as gym
import pytest

import dip_env  # noqa: F401
from dip_agents.adapters.task import Task
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
    alone, group = parity.expected_alone(5), parity.expected_group(5)
    assert [len(m.images) for m in alone[0].shown] == [1, 2]
    assert "expected" in alone[2].shown[1].text and "region" in alone[2].shown[2].text
    assert [a.shown for a in alone] == [g.shown for g in group]
    assert any(a.terms["look"] != g.terms["look"] for a, g in zip(alone, group, strict=True))
    assert any(a.reward > 0 for a in alone)


def test_a_task_says_what_it_does_not_know():
    with pytest.raises(ConfigError, match="unknown keyword 'view'"):
        Task("toy", view=3)
    with pytest.raises(IndexError, match=r"expected 0\.\."):
        Task("toy").episode(10**6)


def test_words_played_as_a_group_earn_what_its_members_earn_step_by_step(parity, seed):
    task = Task(**parity.RULES)
    group = task.played(task.scene_of(seed), parity.SCRIPTS)
    terms = [score.as_dict() for score in group.terms]
    assert terms == [one.terms for one in parity.expected_group(seed)]


def test_a_member_that_says_too_little_has_not_answered():
    group = Task("toy").played(0, [["<think>a</think>"], [], ["<answer>[]</answer>"]])
    assert group.done
    assert [episode.answered for episode in group.episodes] == [False, False, True]
