"""The tables of a looking report, from its JSON alone."""

from dip_agents.experiments.tables import looking_markdown


def value(number, low, high):
    return {"value": number, "low": low, "high": high}


def condition(f1, **parts):
    metrics = {
        "F1": value(f1, f1 - 0.1, f1 + 0.1),
        "recall": value(0.25, 0.0, 1.0),
        "parse_failures": value(0.125, 0.0, 0.5),
    }
    looks = {
        "looked": value(0.5, 0.0, 1.0),
        "regions": value(1.5, 1.0, 2.0),
        "area": value(0.125, 0.1, 0.2),
        "covered": value(0.75, 0.7, 0.8),
        "look": value(0.625, 0.6, 0.7),
    }
    return {"metrics": metrics, "looks": looks, **parts}


SPLIT = {
    "rose": 3,
    "fell": 1,
    "stayed": 0,
    "mean_rise": 0.5,
    "mean_fall": None,
    "mean": value(0.25, -0.125, 0.5),
}
REPORT = {
    "n": 4,
    "conditions": {
        "own looks": condition(0.5, gain_harm=SPLIT),
        "no looks": condition(0.25, against_own={"F1": value(-0.25, -0.5, 0.125)}),
    },
    "budget": ["no looks", "own looks"],
}


def rows(name):
    """The cells of each line that begins with a condition's name, table by table."""
    lines = [line.strip("| ").split(" | ") for line in looking_markdown(REPORT).splitlines()]
    return [cells[1:] for cells in lines if cells[0] == name]


def test_every_number_stands_in_its_column():
    conditions, split, budget, look_coverage = rows("own looks")
    assert conditions == ["0.500 [0.400, 0.600]", "-", "-", "0.250", "-", "0.125"]
    assert split == ["3", "1", "0", "+0.500", "-", "+0.250 [-0.125, +0.500]"]
    assert budget == ["1.500", "0.125", "0.500 [0.400, 0.600]", "+0.250 [-0.125, +0.500]"]
    assert look_coverage == [
        "0.500",
        "1.500",
        "0.125",
        "0.750 [0.700, 0.800]",
        "0.625 [0.600, 0.700]",
    ]


def test_an_arm_is_left_out_where_it_has_nothing_to_say():
    conditions, budget, _ = rows("no looks")
    assert conditions[1] == "-0.250 [-0.500, +0.125]"
    assert budget == ["1.500", "0.125", "0.250 [0.150, 0.350]", "-"]


def test_the_tables_are_well_formed_and_say_how_many_scenes():
    text = looking_markdown(REPORT)
    assert text.startswith("4 scenes, played once in every condition")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        head, rule, *body = table.splitlines()
        assert set(rule) <= set("|-: ")
        assert {line.count("|") for line in (head, rule, *body)} == {head.count("|")}
