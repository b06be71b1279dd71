import pytest
from PIL import Image

from dip_agents.experiments.report import experiment_markdown, experiment_plot


def values(**numbers):
    return {name: {"value": v, "low": v - 0.1, "high": v + 0.1} for name, v in numbers.items()}


def condition(f1, series="s", place=None, **more):
    return {
        "series": series,
        "place": place,
        "metrics": values(F1=f1, recall=0.25),
        "looks": values(regions=2.0, area=0.3),
        "without": None,
        **more,
    }


def report(kind, conditions):
    return {
        "experiment": kind, "n": 9, "reference": "own", "conditions": conditions,
        "own_places": {"s": 3},
        "left_out": {},
    }  # fmt: skip


def test_the_table_shows_what_is_there_and_a_dash_for_the_rest():
    split = {"rose": 3, "fell": 1, "stayed": 5, "mean_rise": 0.5, "mean_fall": None}
    conditions = {
        "own": condition(0.5, gain_harm=split | values(mean=0.2)),
        "none": condition(0.25, against_reference=values(F1=-0.25)),
    }
    text = experiment_markdown(report("look-budget", conditions))
    assert "look-budget: 9 scenes" in text
    assert "| own | 0.500 [0.400, 0.600] | - | - | 0.250 | - | - | - | 2.000 | 0.300 |" in text
    assert "| none | 0.250 [0.150, 0.350] | -0.250 [-0.350, -0.150] |" in text
    assert "| own | 3 | 1 | 5 | +0.500 | - | +0.200 [+0.100, +0.300] |" in text


@pytest.mark.parametrize(
    ("kind", "conditions"),
    [
        ("look-budget", {"own": condition(0.5, "own"), "none": condition(0.2, place=0)}),
        (
            "resolution",
            {
                "own": condition(0.5, place=384, without="none", gain_harm=values(mean=0.3)),
                "none": condition(0.2, "no looks", place=384),
            },
        ),
        (
            "look-budget",
            {
                "own": condition(0.5, "own"),
                "less": condition(0.2, place=0),
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


def test_what_was_left_out_is_named_with_its_reason():
    found = report("look-budget", {"own": condition(0.5)}) | {
        "left_out": {"single pass": "no words"}
    }
    assert "Left out: single pass: no words." in experiment_markdown(found)


@pytest.mark.parametrize("kind", ["look-budget", "controls"])
def test_one_scene_and_an_undefined_score_are_drawn_without_interval(kind, tmp_path):
    pytest.importorskip("matplotlib")
    place = {"look-budget": 0, "controls": None}[kind]
    conditions = {
        "own": condition(0.5, "own"),
        "none": condition(0.2, place=place),
        "empty": condition(0.2, place=place),
    }
    if kind == "controls":
        conditions["own"] = condition(0.5)
    for one in conditions.values():
        one["metrics"]["F1"] |= {"low": None, "high": None}
    del conditions["empty"]["metrics"]["F1"]
    experiment_plot(report(kind, conditions), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
