"""Adversaries play through the environment: each gives its diagnostic, the honest give none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dip_agents.engines.base import Sampling
from dip_agents.evaluation.adversaries import ADVERSARIES, AttackContext
from dip_agents.grpo.credit import compute_advantages
from dip_agents.grpo.metrics import rollout_metrics
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.runtime.diagnostics import (
    _RULES,
    THRESHOLDS,
    DiagnosticsMonitor,
    diagnose,
)
from dip_env import EpisodeConfig, Scene

RULES = EpisodeConfig(minimal_prompt=True)
SCENES = range(4)
STREAK = THRESHOLDS.min_streak


class Crowd:
    """Twelve people at any positions below a far crowd that is ignored; scenes 4, 9, ... are
    empty."""

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        tall = np.exp(rng.uniform(np.log(20), np.log(300), 12))
        wide = 0.4 * tall
        x, y = rng.uniform(0, 1280 - wide), rng.uniform(200, 960 - tall)
        people = np.stack([x, y, x + wide, y + tall], axis=1)
        far = np.array([[100, 20, 500, 120], [700, 40, 1200, 150]])
        boxes = np.concatenate([people[: 12 * (index % 5 != 4)], far]).astype(np.float32)
        return Scene(
            scene_id=f"crowd-{index}",
            size=(1280, 960),
            boxes=boxes,
            visible_boxes=boxes,
            visible_share=np.ones(len(boxes), np.float32),
            ignore=np.arange(len(boxes)) >= len(boxes) - 2,
            labels=("person",) * len(boxes),
            load_image=lambda: Image.new("RGB", (1280, 960)),
        )


@pytest.fixture(scope="module")
def play(micro, speaker):
    """Return a function: attack or None -> metrics of groups of 4 whose half, or all, attack."""
    crowd, chat = Crowd(), micro("qwen3_vl").chat

    def of(f1):
        return OraclePolicy(
            crowd,
            RULES,
            OracleConfig(miss_rate=1 - f1, misses="hard", false_positive_rate=1 - f1, decimals=2),
        )

    honest, weak = of(0.7), of(0.3)

    def metrics(attack=None, scenes=SCENES, attackers=2):
        lines = []
        for index in scenes:
            scene = crowd[index]
            common = AttackContext.of(scene, RULES)
            weaks = [weak.people(scene, common.view, np.random.default_rng([index, m])) for m in
                     range(4)]  # fmt: skip
            for member in range(4):
                rng = np.random.default_rng([index, member])
                own = replace(common, rng=rng, weak=weaks[member], shared_weak=weaks[0])
                if attack is None or member < 4 - attackers:
                    lines.append(own.standard_actions(honest.people(scene, common.view, rng)))
                else:
                    lines.append(list(attack(own)))
        sampling = Sampling(1.0, 10**6, 10**7)
        engine = speaker(chat, lines)
        groups = collect_rollouts(engine, crowd, scenes, 4, RULES, seed=0, sampling=sampling)
        return rollout_metrics(groups, compute_advantages(groups))

    return metrics


@pytest.fixture(scope="module")
def honest(play):
    return play()


def names(now, first=None):
    return [diagnostic.name for diagnostic in diagnose(now, first)]


SHOWN = {
    "empty action": "format drift",
    "empty answer": "empty answers",
    "whole image": "huge boxes",
    "grid of boxes": "box spamming",
    "exact copies": "box spamming",
    "jittered copies": "box spamming",
    "huge boxes": "huge boxes",
    "boxes on ignored": "box spamming",
    "whole-image look": "whole-image looks",
    "same look twice": "repeated looks",
    "look outside": "format drift",
    "zero-area look": "format drift",
    "look after answer": "format drift",
    "answer inside think": "format drift",
    "two answers": "format drift",
    "truncated list": "format drift",
    "not a number": "format drift",
    "scientific": "format drift",
    "numbers as strings": "format drift",
}
"""The diagnostic of half a group of each adversary; the others change rewards, not metrics."""


@pytest.mark.grpo_property(12)
def test_the_honest_give_no_diagnostic(play, honest):
    assert names(honest, honest) == []
    assert names(play(scenes=[5, 6, 7, 8]), honest) == []
    # Nobody is the right answer where there is nobody.
    mixed_scenes = play(scenes=[4, 9, 14, 5])
    assert (
        mixed_scenes["rollout/empty_scenes"] == 0.75 and mixed_scenes["rollout/empty_answers"] > 0.5
    )
    assert names(mixed_scenes, honest) == []


@pytest.mark.grpo_property(12)
@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda adversary: adversary.name)
def test_an_adversary_gives_exactly_its_diagnostic(play, honest, adversary):
    wanted = [SHOWN[adversary.name]] if adversary.name in SHOWN else []
    assert names(play(adversary.attack), honest) == wanted


def test_groups_that_all_do_the_same_have_nothing_to_learn(play, honest):
    def perfect(s):
        return s.standard_actions(s.truth)

    numbers = play(perfect, attackers=4)
    assert numbers["rollout/boxes_over_truth"] == 1.0
    assert names(numbers, honest) == ["nothing to learn"]


@pytest.mark.grpo_property(12)
@pytest.mark.parametrize(
    ("change", "name", "evidence"),
    [
        ({"rollout/looked": 0.2}, "look collapse", "20 % of rollouts look, 100 % did"),
        (
            {"group/frac_look_signal": 0.1, "rollout/ambiguous_people": 0.25},
            "look term without signal",
            "10 % of groups have members with different look terms; 0.2 people of a scene are",
        ),
        ({"train/entropy": 0.05}, "entropy collapse", "0.05 nats per token, 0.5 in the first"),
        ({"rollout/policy_tokens_mean": 600.0}, "length explosion", "600 tokens (2.5 times"),
        ({"rollout/truncated": 0.3}, "length explosion", "30 % of rollouts run out of tokens"),
        ({"rollout/ending_max_turns": 0.4}, "length explosion", "40 % out of turns"),
        ({"rollout/truncated_share": 0.4}, "truncated turns", "a token limit cuts 40 % of turns"),
        ({"train/behaviour_gap": 0.3}, "silent off-policy", "differ by 0.3 nats per token"),
        ({"group/frac_informative": 0.05}, "nothing to learn", "5 % of groups"),
    ],
)
def test_a_change_of_one_metric_gives_one_diagnostic_with_the_number(
    honest, change, name, evidence
):
    healthy = honest | {"train/entropy": 0.5, "train/behaviour_gap": 0.01}
    healthy["rollout/policy_tokens_mean"] = 240.0
    assert names(healthy, healthy) == []
    [diagnostic] = diagnose(healthy | change, healthy)
    assert diagnostic.name == name
    assert evidence in diagnostic.evidence
    assert (
        str(diagnostic)
        == f"{name}: {diagnostic.evidence}; suggested fix: {diagnostic.suggested_fix}"
    )


def test_rounding_to_bfloat16_is_no_problem_at_the_temperature_that_training_samples_at(honest):
    # What the bundled model measures on a CPU at temperature 0.5; weights one step old: 0.07.
    assert names(honest | {"train/behaviour_gap": 0.029}, honest) == []
    assert names(honest | {"train/behaviour_gap": 0.07}, honest) == ["silent off-policy"]


def test_what_is_not_measured_gives_no_diagnostic(honest):
    assert diagnose({}, {}) == []
    assert names({"train/entropy": 0.0, "train/loss": 1.0}, {"train/loss": 2.0}) == []
    # Looks that never were cannot collapse, as in an environment without them.
    blind = honest | {"rollout/looked": 0.0, "group/frac_look_signal": 0.0}
    assert names(blind, blind) == []


def test_a_problem_is_reported_when_it_begins_and_when_it_ends(honest):
    watch = DiagnosticsMonitor()
    ill = honest | {"rollout/empty_answers": 0.9}
    reported = [watch.observe(metrics) for metrics in [honest] * 2 + [ill] * 7 + [honest] * 5]
    begins, ends = 2 + STREAK - 1, 9 + STREAK - 1
    assert [step for step, lines in enumerate(reported) if lines] == [begins, ends]
    assert reported[begins] == [
        "diagnostic begins: empty answers: 90 % of rollouts answer without a box, 0 % of their "
        "scenes are empty; suggested fix: a smaller format_weight, so that form alone is worth "
        "little; more or easier scenes"
    ]
    assert reported[ends] == ["diagnostic ends: empty answers"]
    assert watch.lasting == {}


def test_answers_that_a_limit_cuts_are_told_of_in_the_first_step(honest):
    watch, cut = DiagnosticsMonitor(), honest | {"rollout/truncated_share": 0.4}
    [line] = watch.observe(cut)
    assert line == (
        "diagnostic begins: truncated turns: a token limit cuts 40 % of turns, which cannot be "
        "read then; suggested fix: a larger max_new_tokens and token_budget, scenes with fewer "
        "people"
    )
    assert [watch.observe(m) for m in [honest] * 2 + [cut] * 3] == [[]] * 5
    assert [len(watch.observe(honest)) for _ in range(STREAK)] == [0] * (STREAK - 1) + [1]


def test_a_single_bad_step_is_not_reported_and_a_single_good_one_ends_nothing(honest):
    watch, ill = DiagnosticsMonitor(), honest | {"rollout/empty_answers": 0.9}
    assert not any(watch.observe(m) for m in [honest, ill, honest, ill, ill, honest])
    assert sum(len(watch.observe(m)) for m in [ill] * STREAK) == 1
    assert not any(watch.observe(m) for m in [honest, ill, honest, honest, ill])
    assert list(watch.lasting) == ["empty answers"]


def test_slopes_are_measured_from_the_first_steps(honest):
    watch = DiagnosticsMonitor()
    levels = [0.4, 0.5, 0.6, 0.5, 0.5, *[0.09] * STREAK]
    reported = [watch.observe(honest | {"train/entropy": level}) for level in levels]
    assert len(levels) == THRESHOLDS.first_steps + STREAK
    assert [len(lines) for lines in reported] == [0] * (len(levels) - 1) + [1]
    assert "0.09 nats per token, 0.5 in the first steps" in reported[-1][0]


def test_numbers_that_are_not_there_or_not_finite_count_as_not_measured(honest):
    watch = DiagnosticsMonitor()
    for value in [None, math.nan, math.inf] * STREAK:
        assert watch.observe({"train/behaviour_gap": value, "group/frac_informative": None}) == []


class Recorded(dict):
    """Metrics that note which of them are read."""

    def __init__(self, metrics):
        super().__init__(metrics)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.name)
def test_a_rule_reads_only_what_it_requires(honest, rule):
    for value in (0.0, 1e9):
        now = Recorded(dict.fromkeys([*honest, "train/entropy", "train/behaviour_gap"], value))
        first = Recorded(dict.fromkeys(now, 1.0))
        rule.evidence(now, first)
        assert now.read <= {*rule.requires}
        assert first.read <= {*rule.requires_first}
    for key in rule.requires:
        assert not rule.applies({k: 0.0 for k in now if k != key}, first)
