import json

import pytest

from dip_agents.experiments.measures import GainHarm
from dip_agents.experiments.report import ConditionReport, ExperimentReport, defined
from dip_env import EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import Interval

REPORT = ExperimentReport(
    experiment="resolution",
    reference="own",
    conditions={
        "own": ConditionReport(
            series="own looks",
            position=320.0,
            without="none",
            metrics={"F1": Interval(0.5, 0.25, 0.75)},
            looks={"area": Interval(0.125, None, None)},
            gain_harm=GainHarm(1, 0, 2, 0.5, None, Interval(0.25, -0.5, 1.0)),
        ),
        "none": ConditionReport(
            series="no looks",
            position=None,
            without=None,
            metrics={},
            looks={},
            against_reference={"F1": Interval(-0.25, -0.5, 0.0)},
        ),
    },
    own_positions={"size of regions": 1.0},
    left_out={"single pass": "a reason"},
    seed=7,
    scene_indices=(4, 2),
    config=EpisodeConfig(max_looks=2, reward=RewardConfig(look_weight=0.25, accuracy_weight=0.65)),
)


def test_a_report_comes_back_from_its_json():
    text = json.dumps(REPORT.to_json(), allow_nan=False)
    assert ExperimentReport.from_json(json.loads(text)) == REPORT


def test_the_json_has_the_documented_keys():
    data = REPORT.to_json()
    assert list(data) == [
        "experiment", "n", "reference", "conditions", "own_positions", "left_out", "interval_level",
        "interval_method", "iou_threshold", "seed", "scene_indices", "config",
    ]  # fmt: skip
    assert data["n"] == 2
    own, none = data["conditions"].values()
    assert list(own) == ["series", "position", "without", "metrics", "looks", "gain_harm"]
    assert list(none) == ["series", "position", "without", "metrics", "looks", "against_reference"]
    assert own["gain_harm"] == {
        "rose": 1, "fell": 0, "stayed": 2, "mean_rise": 0.5, "mean_fall": None,
        "mean": {"value": 0.25, "low": -0.5, "high": 1.0},
    }  # fmt: skip
    assert own["looks"] == {"area": {"value": 0.125, "low": None, "high": None}}


@pytest.mark.parametrize("broken", [{}, {"conditions": []}, {"config": {"reward": None}}])
def test_json_that_is_no_report_is_refused(broken):
    data = REPORT.to_json() | broken if broken else {}
    with pytest.raises(ConfigError, match="report: expected an experiment's JSON"):
        ExperimentReport.from_json(data)


def test_only_intervals_with_a_value_are_kept():
    found = defined({"a": Interval(1.0, 0.5, 2.0, undefined=3), "b": Interval(None, None, None)})
    assert found == {"a": Interval(1.0, 0.5, 2.0)}
