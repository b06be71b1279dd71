"""Gain, harm and look coverage, worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.looks import LookCoverage
from dip_agents.experiments.measures import (
    COMPARED,
    compared,
    gain_and_harm,
    mean_look_coverage,
    scene_f1,
)
from dip_agents.policies.base import CallablePolicy
from dip_env import EpisodeConfig, ToyScenes


def test_the_f1_of_a_scene_counts_dropped_boxes_for_nothing():
    # found, boxes, dropped, people: 2*1/(3-1+2), 0/(1+1), nobody and nothing, nobody and a box,
    # nobody and a box in an ignore region.
    boxes = SimpleNamespace(
        tp=np.array([[1.0, 0, 0, 0, 0]]),
        boxes=np.array([3.0, 1, 0, 1, 1]),
        dropped=np.array([[1.0, 0, 0, 0, 1]]),
        people=np.array([2.0, 1, 0, 0, 0]),
    )
    f1 = scene_f1(SimpleNamespace(unscored=boxes))
    assert f1.tolist() == pytest.approx([0.5, 0, 1, 0, 1])


def test_conditions_are_compared_by_the_metrics_of_an_evaluation():
    # One box finds somebody of scene 1, one lies in its ignore region, one finds nobody.
    said = "<answer>[[70,80,140,280],[300,42,380,78],[0,0,9,9]]</answer>"
    policy = CallablePolicy(lambda transcript: said)
    score = evaluate(policy, ToyScenes(), [1, 0, 2], EpisodeConfig()).score
    for counts in ([1, 1, 1], [2, 0, 1], [0, 1, 2], [0, 0, 3]):
        everything = score.values(np.array(counts, float))
        assert compared(score)(np.array(counts, float)) == pytest.approx(
            {name: everything[name] for name in COMPARED}
        )
    # Scene 1 alone: one of two boxes that count, one of two people.
    alone = compared(score)(np.array([1.0, 0, 0]))
    assert (alone["precision"], alone["recall"], alone["F1"]) == (0.5, 0.5, 0.5)
    assert alone["boxes_per_truth"] == 1.5
    assert alone["parse_failures"] == 0
    lost = CallablePolicy(lambda transcript: "no idea")
    score = evaluate(lost, ToyScenes(), [1], EpisodeConfig(max_turns=3)).score
    assert compared(score)(np.ones(1))["parse_failures"] == 3


def test_the_split_counts_scenes_and_averages_each_side():
    before = np.array([0.5, 0.5, 0.5, 0.1 + 0.2, 0.0])
    after = np.array([0.7, 0.6, 0.3, 0.3, 0.0])  # 0.1 + 0.2 is not 0.3, and no change either
    split = gain_and_harm(before, after)
    assert (split.rose, split.fell, split.stayed) == (2, 1, 2)
    assert split.mean_rise == pytest.approx(0.15)
    assert split.mean_fall == pytest.approx(-0.2)
    assert split.mean.value == pytest.approx(0.1 / 5)
    backwards = gain_and_harm(after, before)
    assert (backwards.rose, backwards.fell) == (1, 2)
    assert backwards.mean_rise == pytest.approx(0.2)


def test_where_nothing_changes_there_is_no_size_to_average():
    split = gain_and_harm(np.ones(3), np.ones(3))
    assert (split.stayed, split.mean_rise, split.mean_fall) == (3, None, None)
    assert (split.mean.value, split.mean.low, split.mean.high) == (0, 0, 0)


def test_mean_look_coverage_leaves_out_scenes_where_nothing_is_ambiguous():
    found = mean_look_coverage([LookCoverage(2, 0.5, 0.75, 0.25), LookCoverage(0, 0.0, 0.0, 0.0)])
    with_empty = mean_look_coverage(
        [
            LookCoverage(2, 0.5, 0.75, 0.25),
            LookCoverage(0, 0.0, 0.0, 0.0),
            LookCoverage(1, 0.1, None, 0.0),
        ]
    )
    value = {name: mean.value for name, mean in found.items()}
    assert value == {"looked": 0.5, "regions": 1, "area": 0.25, "covered": 0.375, "look": 0.125}
    value = {name: mean.value for name, mean in with_empty.items()}
    assert (value["covered"], value["look"]) == (0.375, 0.125)
    assert value["looked"] == pytest.approx(2 / 3) and value["area"] == pytest.approx(0.2)
    nothing = mean_look_coverage([LookCoverage(1, 0.1, None, 0.0)])
    assert nothing["covered"].value is None and nothing["covered"].reason == "nothing is ambiguous"
