from __future__ import annotations

import pytest

from dip_agents.evaluation.compare import compare_runs
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.result import paired_gain
from dip_agents.evaluation.scores import METRICS
from dip_agents.policies import OracleConfig, OraclePolicy
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes import ToyScenes

RULES = EpisodeConfig()


@pytest.fixture(scope="module")
def results():
    source = ToyScenes()

    def play(miss_rate, seed, n=4):
        policy = OraclePolicy(source, RULES, OracleConfig(miss_rate=miss_rate))
        return evaluate(policy, source, range(n), RULES, seed=seed)

    return {
        "good": play(0.0, 0),
        "poor": play(0.5, 0),
        "poor again": play(0.5, 1),
        "shorter": play(0.0, 0, n=3),
    }


def test_two_evaluations_compare_as_their_paired_gain(results):
    found = compare_runs({"a": [results["good"]], "b": [results["poor"]]})
    assert (found.reference, found.n, found.seeds) == ("a", 4, {"a": 1, "b": 1})
    gain = paired_gain(results["good"], results["poor"])
    for name in METRICS:
        mine, theirs = found.differences["b"][name], gain[name]
        assert (mine.value, mine.low, mine.high) == (theirs.value, theirs.low, theirs.high), name
        own, alone = found.metrics["b"][name], results["poor"].metrics[name]
        assert (own.value, own.low, own.high) == (alone.value, alone.low, alone.high), name


def test_the_value_of_several_seeds_is_their_mean_and_its_interval_is_no_narrower(results):
    two = compare_runs({"a": [results["good"]], "b": [results["poor"], results["poor again"]]})
    parts = [results[name].metrics["recall"].value for name in ("poor", "poor again")]
    recall = two.metrics["b"]["recall"]
    assert recall.value == pytest.approx(sum(parts) / 2)
    assert parts[0] != parts[1]
    # Seeds are drawn as well: both runs alone are inside what is drawn.
    assert recall.low <= min(parts) and recall.high >= max(parts)


def test_equal_runs_differ_by_nothing(results):
    seeds = [results["poor"], results["poor again"]]
    found = compare_runs({"a": seeds, "b": seeds})
    for interval in found.differences["b"].values():
        assert (interval.value, interval.low, interval.high) in [(0, 0, 0), (None, None, None)]


def test_runs_on_other_scenes_are_refused(results):
    with pytest.raises(ConfigError, match="b: expected the same scenes as a"):
        compare_runs({"a": [results["good"]], "b": [results["shorter"]]})


def test_plain_values_have_everything(results):
    found = compare_runs({"a": [results["good"]], "b": [results["poor"]]}).to_json()
    assert found["metrics"]["a"]["F1"]["value"] == 1.0
    assert found["differences"]["b"]["F1"]["value"] < 0
