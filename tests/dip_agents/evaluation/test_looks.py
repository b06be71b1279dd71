"""What looks cover, worked by hand, beside random and oracle looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dip_agents.evaluation.evaluator import evaluate, evaluate_conditions
from dip_agents.evaluation.looks import (
    LookCoverage,
    look_coverage_of,
    oracle_looks,
    random_coverage,
)
from dip_agents.evaluation.play import EvalCondition
from dip_agents.evaluation.result import paired_gain
from dip_agents.policies.base import CallablePolicy
from dip_agents.policies.oracle import OraclePolicy
from dip_agents.policies.oracle_looks import scene_ambiguity
from dip_agents.policies.scripted import RandomPolicy
from dip_env import Episode, EpisodeConfig, RewardConfig, ToyScenes, make_source
from dip_wrappers.controls import random_looks

LEFT = "<look>[[0,0,56,320]]</look><answer>[]</answer>"
"""Toy scenes are 640 x 480 in a view of 448 x 320: this is their left eighth, up to x = 80."""


def values(policy, source, n, config, **options):
    result = evaluate(policy, source, range(n), config, **options)
    return {name: metric.value for name, metric in result.metrics.items()}


def say(text):
    return CallablePolicy(lambda transcript: text)


def test_a_look_covers_the_share_of_ambiguity_inside_it():
    config = EpisodeConfig(max_regions=2)
    episode = Episode(ToyScenes()[3], config)
    # Text 0..224 x 0..160 is scene 0..320 x 0..240: a quarter, with all of the person of scene 3.
    episode.step("<look>[[0,0,224,160]]</look>")
    assert look_coverage_of(episode) == LookCoverage(1, pytest.approx(0.25), pytest.approx(1), 0.75)
    # Of scene 0 a look from the left edge to x = 80 holds half of the left one of three people.
    episode = Episode(ToyScenes()[0], config)
    episode.step("<look>[[0,0,56,320]]</look>")
    weights = scene_ambiguity(episode.scene, episode.view).weights
    covered = 0.5 * weights[0] / weights.sum()
    assert covered > 80 / 640
    expected = LookCoverage(
        1, pytest.approx(80 / 640), pytest.approx(covered), pytest.approx(covered - 80 / 640)
    )
    assert look_coverage_of(episode) == expected


def test_without_looks_or_people_nothing_is_covered():
    nobody, unseen = Episode(ToyScenes()[2]), Episode(ToyScenes()[0])
    nobody.step("<look>[[0,0,224,160]]</look>")
    assert look_coverage_of(nobody) == LookCoverage(1, pytest.approx(0.25), None, 0.0)
    assert look_coverage_of(unseen) == LookCoverage(0, 0.0, 0.0, 0.0)


def test_the_metric_is_the_mean_over_scenes_where_something_is_ambiguous():
    # The left eighth holds half of the left person of scene 0, nothing of scenes 1 and 3, and
    # scene 2 has nobody: it counts for the area alone.
    weights = scene_ambiguity(ToyScenes()[0], Episode(ToyScenes()[0]).view).weights
    found = values(say(LEFT), ToyScenes(), 4, EpisodeConfig())
    assert found["look_coverage"] == pytest.approx(0.5 * weights[0] / weights.sum() / 3)
    assert found["look_area"] == pytest.approx(1 / 8)
    assert found["regions_per_episode"] == found["looks_per_episode"] == 1
    assert found["look_coverage_oracle"] > found["look_coverage"]


def test_ambiguity_is_that_of_the_annotation_in_groups_of_any_size():
    found = [values(say(LEFT), ToyScenes(), 2, EpisodeConfig(), group_size=size) for size in (1, 3)]
    assert found[0]["look"] > 0 == found[1]["look"]  # siblings that agree leave nothing ambiguous
    for name in ("look_coverage", "look_coverage_random", "look_coverage_oracle", "look_area"):
        assert found[0][name] == pytest.approx(found[1][name]), name


def test_one_look_earns_the_look_term_where_there_is_enough_ambiguity():
    rules = EpisodeConfig(reward=RewardConfig(look_floor=0.0, ambiguity="annotation"))
    source = make_source("crowd", split="val")
    result = evaluate(OraclePolicy(source, rules), source, range(4), rules)
    counters = result.score.counters
    expected = counters["covered"] - counters["area"]
    np.testing.assert_allclose(counters["look"], expected)


def test_random_looks_cover_what_they_take_of_the_scene():
    # The whole scene has one place only; without a look there is none.
    episode = Episode(ToyScenes()[0])
    assert random_coverage(episode) == 0
    episode.step("<look>[[0,0,448,320]]</look>")
    assert random_coverage(episode) == pytest.approx(1)
    nobody = Episode(ToyScenes()[2])
    nobody.step("<look>[[0,0,100,100]]</look>")
    assert random_coverage(nobody) is None
    # Of people spread over a scene, squares at random cover about their share of it.
    source, rules = make_source("crowd", split="val"), EpisodeConfig(max_regions=3)
    text = "<look>[[0,0,96,96],[0,96,96,192],[96,0,192,96]]</look><answer>[]</answer>"
    found = values(say(text), source, 8, rules)
    assert 0.5 < found["look_coverage_random"] / found["look_area"] < 2


def test_random_looks_are_those_of_the_control():
    source, rules = make_source("crowd", split="val"), EpisodeConfig(max_looks=1)
    conditions = {f"{seed}": EvalCondition(rules, random_looks(seed)) for seed in range(16)}
    conditions["own"] = EvalCondition(rules)
    text = "<look>[[0,0,96,96],[0,96,96,192]]</look><answer>[]</answer>"
    results = evaluate_conditions(say(text), source, range(2), conditions)
    own = results.pop("own").metrics
    played = [result.metrics["look_coverage"].value for result in results.values()]
    assert own["look_coverage_random"].value == pytest.approx(np.mean(played), abs=1e-3)


def test_where_the_oracle_looks_is_what_its_looks_cover_and_more_than_random_places_do():
    source, rules = make_source("crowd", split="val"), EpisodeConfig(max_looks=1)
    oracle = values(OraclePolicy(source, rules), source, 6, rules)
    assert oracle["look_coverage"] == pytest.approx(oracle["look_coverage_oracle"], abs=1e-9)
    assert oracle["look_coverage_oracle"] > 2 * oracle["look_coverage_random"] > 0
    anywhere = values(RandomPolicy(rules), source, 6, rules)
    assert anywhere["look_coverage_oracle"] == oracle["look_coverage_oracle"]
    assert anywhere["look_coverage"] < oracle["look_coverage_oracle"]


def test_the_oracle_has_all_looks_that_the_rules_allow():
    scene = make_source("dense", split="val")[0]
    counts = {}
    for looks in (0, 1, 2):
        rules = EpisodeConfig(max_looks=looks, max_regions=2)
        counts[looks] = len(oracle_looks(scene, Episode(scene, rules).view, rules))
    assert counts == {0: 0, 1: 2, 2: 4}


def test_where_no_look_is_allowed_nothing_is_said_of_looks():
    rules = EpisodeConfig(max_looks=0)
    result = evaluate(say("<answer>[]</answer>"), ToyScenes(), range(4), rules)
    for name in ("look_coverage", "look_coverage_random", "look_coverage_oracle"):
        assert result.metrics[name].value is None
        assert result.metrics[name].reason == "nothing is ambiguous, or no look is allowed"


def test_the_gain_in_coverage_is_paired_and_leaves_the_oracle_where_it_is():
    source, rules = ToyScenes(), replace(EpisodeConfig(), max_looks=1)
    before = evaluate(say(LEFT), source, range(4), rules)
    after = evaluate(OraclePolicy(source, rules), source, range(4), rules)
    gain = paired_gain(before, after)
    rise = after.metrics["look_coverage"].value - before.metrics["look_coverage"].value
    assert gain["look_coverage"].value == pytest.approx(rise) and gain["look_coverage"].low > 0
    oracle = gain["look_coverage_oracle"]
    assert (oracle.value, oracle.low, oracle.high) == (0, 0, 0)
