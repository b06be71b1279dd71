from __future__ import annotations

import numpy as np
import pytest

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_env.config import EpisodeConfig

RULES = EpisodeConfig(view_size=128, crop_size=64, max_looks=1)


@pytest.fixture
def policy(toy):
    return OraclePolicy(
        toy, RULES, OracleConfig(miss_rate=0.4, jitter=0.05, false_positive_rate=0.5)
    )


def test_the_columns_hold_what_an_evaluation_measures(load, toy, policy):
    stats, indices = load("report.stats"), range(len(toy))
    measured = load("measure.answers").measure(policy, toy, indices, RULES)
    expected = evaluate(policy, toy, indices, RULES).score
    values = expected.values() | expected.unscored.values()
    same = {
        "F1": "F1", "precision": "precision", "recall": "recall", "reward": "reward",
        "duplicates": "duplicates_per_answer", "looks": "looks_per_episode", "look": "look",
        "well_formed": "format",
    }  # fmt: skip
    for ours, theirs in same.items():
        found = stats.value(ours, {None: measured.columns}).value
        assert found == pytest.approx(values[theirs]), ours
    assert 0 < values["F1"] < 1
    f1 = stats.value("F1_50_95", {None: measured.columns}).value
    assert f1 == pytest.approx(values["F1_50_95"])


def test_measured_runs_survive_the_disk(load, toy, policy, tmp_path):
    module = load("measure.answers")
    measured = module.measure(policy, toy, (0, 2), RULES)
    measured.save(tmp_path)
    again = module.Measured.load(tmp_path)
    assert (again.indices, again.actions) == (measured.indices, measured.actions)
    assert again.columns.keys() == measured.columns.keys()
    for name, values in measured.columns.items():
        np.testing.assert_array_equal(again.columns[name], values)


def test_an_episode_is_played_again_as_it_was(load, toy, policy):
    measured = load("measure.answers").measure(policy, toy, (3, 1), RULES)
    for place in range(measured.count):
        episode = measured.play_again(place, toy, RULES)
        assert episode.done and episode.scene_index == measured.indices[place]
        assert episode.score.terms.accuracy == measured.columns["accuracy"][place]
        assert len(episode.looks) > 0
