"""The tables of an experiment."""

from dip_agents.experiments.markdown import experiment_markdown
from dip_agents.experiments.measures import GainHarm
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


def test_the_table_shows_what_is_there_and_a_dash_for_the_rest():
    conditions = {
        "own": condition(0.5, gain_harm=split(0.2)),
        "none": condition(0.25, against_reference=values(F1=-0.25)),
    }
    text = experiment_markdown(report("look-budget", conditions))
    assert "look-budget: 9 scenes" in text
    assert "| own | 0.500 [0.400, 0.600] | - | - | 0.250 | - | - | - | 2.000 | 0.300 |" in text
    assert "| none | 0.250 [0.150, 0.350] | -0.250 [-0.350, -0.150] |" in text
    assert "| own | 3 | 1 | 5 | +0.500 | - | +0.200 [+0.100, +0.300] |" in text


def test_what_was_left_out_is_named_with_its_reason():
    found = report("look-budget", {"own": condition(0.5)}, left_out={"single pass": "no words"})
    assert "Left out: single pass: no words." in experiment_markdown(found)


def test_the_tables_are_well_formed_and_name_the_number_of_scenes():
    text = experiment_markdown(report("controls", {"own": condition(0.5, gain_harm=split(0.2))}))
    assert text.startswith("controls: 9 scenes, played once in every condition")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        head, rule, *body = table.splitlines()
        assert set(rule) <= set("|-: ")
        assert {line.count("|") for line in (head, rule, *body)} == {head.count("|")}
