from dataclasses import replace

import pytest
from PIL import Image

from dip_agents.experiments.measures import GainHarm
from dip_agents.experiments.plot import experiment_plot
from dip_agents.experiments.report import ConditionReport, ExperimentReport
from dip_env import EpisodeConfig
from dip_env.metrics.intervals import Interval


def values(**numbers):
    return {name: Interval(v, v - 0.1, v + 0.1) for name, v in numbers.items()}


def split(mean):
    return GainHarm(3, 1, 5, 0.5, None, values(mean=mean)["mean"])


def condition(f1, series="s", position=None, **more):
    return ConditionReport(
        series,
        position,
        **{
            "without": None,
            "metrics": values(F1=f1, recall=0.25),
            "looks": values(regions=2.0, area=0.3),
            **more,
        },
    )


def report(kind, conditions, **more):
    return ExperimentReport(
        **{
            "experiment": kind,
            "reference": "own",
            "conditions": conditions,
            "own_positions": {"s": 3},
            "left_out": {},
            "seed": 0,
            "scene_indices": tuple(range(9)),
            "config": EpisodeConfig(),
            **more,
        }
    )


@pytest.mark.parametrize(
    ("kind", "conditions"),
    [
        ("look-budget", {"own": condition(0.5, "own"), "none": condition(0.2, position=0)}),
        (
            "resolution",
            {
                "own": condition(0.5, position=384, without="none", gain_harm=split(0.3)),
                "none": condition(0.2, "no looks", position=384),
            },
        ),
        (
            "look-budget",
            {
                "own": condition(0.5, "own"),
                "less": condition(0.2, position=0),
                "single pass": condition(0.3, "p"),
            },
        ),
        ("controls", {"own": condition(0.5), "none": condition(0.2)}),
    ],
)
def test_a_plot_is_drawn_of_each_kind(kind, conditions, tmp_path):
    pytest.importorskip("matplotlib")
    experiment_plot(report(kind, conditions), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    # The line and points of the first colour are there, (0, 114, 178).
    assert sum(count for count, colour in colours if colour == (0, 114, 178)) > 100


@pytest.mark.parametrize("kind", ["look-budget", "controls"])
def test_one_scene_and_an_undefined_score_are_drawn_without_interval(kind, tmp_path):
    pytest.importorskip("matplotlib")
    position = {"look-budget": 0, "controls": None}[kind]
    conditions = {
        "own": condition(0.5, "own"),
        "none": condition(0.2, position=position),
        "empty": condition(0.2, position=position),
    }
    if kind == "controls":
        conditions["own"] = condition(0.5)
    conditions = {
        name: replace(one, metrics={"F1": Interval(one.metrics["F1"].value, None, None)})
        for name, one in conditions.items()
    }
    conditions["empty"] = replace(conditions["empty"], metrics={})
    experiment_plot(report(kind, conditions), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
