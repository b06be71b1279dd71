from __future__ import annotations

import pytest

from dip_agents.experiments.kinds import NO_LOOKS, OWN_LOOKS


@pytest.fixture
def variants(load, columns):
    """Three variants on two scenes of one person each: F1 0, 1/2 and 1 with seeds 0 and 1."""
    variants = load("variants")
    none, one, both = (columns(tp, (1, 1), (1, 1)) for tp in ((0, 0), (0, 1), (1, 1)))
    return [
        (variants.BASE, {None: none}),
        (variants.SFT_LONGER, {0: one, 1: one}),
        (variants.GRPO, {0: both, 1: both}),
    ]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_is_markdown_with_numbers_to_the_right(load):
    markdown = load("report.tables").markdown
    assert markdown(["a", "b"], [["x", "1"]]) == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
    assert markdown(["a", "b"], [], numbers=False) == ["| a | b |", "| --- | --- |"]


def test_variants_are_listed_with_intervals_and_each_seed(load, variants):
    header, _, base, sft, grpo = load("report.tables").by_metric(variants, ("F1", "recall"))
    assert cells(header) == ["variant", "seeds", "F1", "recall", "F1 of each seed"]
    assert cells(base) == [
        "`base`", "-", "0.000 [0.000, 0.000]", "0.000 [0.000, 0.000]", "0.000"
    ]  # fmt: skip
    assert cells(sft) == [
        "`sft_random_looks`", "2", "0.500 [0.000, 1.000]", "0.500 [0.000, 1.000]", "0.500 0.500"
    ]  # fmt: skip
    assert cells(grpo)[2] == "1.000 [1.000, 1.000]"


def test_gains_are_paired_differences_to_one_variant(load, variants):
    tables = load("report.tables")
    header, _, sft, grpo = tables.gains(variants, ("F1",), "base")
    assert cells(header)[0] == "variant - `base`, paired"
    assert cells(sft) == ["`sft_random_looks`", "+0.500 [+0.000, +1.000]"]
    assert cells(grpo) == ["`grpo`", "+1.000 [+1.000, +1.000]"]
    assert tables.gains(variants[:1], ("F1",), "grpo") == [
        "`grpo` is not finished: nothing to compare with."
    ]


def test_scenes_stand_side_by_side_and_what_is_missing_is_a_dash(load, variants):
    found = {"crowd": variants, "night": variants[:2]}
    tables = load("report.tables")
    header, _, _, _, grpo = tables.across(found, "F1")
    assert cells(header) == ["variant: F1", "crowd", "night"]
    assert cells(grpo) == ["`grpo`", "1.000 [1.000, 1.000]", "-"]
    rows = tables.across(found, "F1", "base")[2:]
    assert [cells(row)[0] for row in rows] == ["`sft_random_looks`", "`grpo`"]
    assert cells(rows[1])[1:] == ["+1.000 [+1.000, +1.000]", "-"]


def test_a_verdict_says_what_the_intervals_say(load, variants):
    verdict = load("report.tables").verdict
    better, missing = verdict({"crowd": variants, "night": variants[:2]}, "base", "grpo")
    assert better.startswith("- `crowd`: `grpo` is **better** than `base`, F1 +1.000")
    assert better.endswith("their own intervals do not overlap.")
    assert missing == "- `night`: not finished."
    (worse,) = verdict({"crowd": variants}, "grpo", "base")
    assert "`base` is **worse** than `grpo`, F1 -1.000" in worse
    (open_,) = verdict({"crowd": variants}, "sft_random_looks", "grpo")
    assert "**not told apart** from `sft_random_looks`" in open_  # +0.5 from 0 to 1
    assert open_.endswith("their own intervals overlap.")


def test_looks_are_compared_with_the_own_ones_and_scenes_are_split(load, columns):
    tables = load("report.tables")
    landed = {"regions": (2, 2, 2, 2), "area": (0.1,) * 4, "covered": (0.5,) * 4,
              "ambiguous": (1, 1, 1, 0)}  # fmt: skip
    nowhere = dict.fromkeys(landed, (0,) * 4)
    four = ((1,) * 4, (1,) * 4)
    # Own looks find three of four; without, two, of which one is lost with looks.
    own = columns((1, 1, 1, 0), *four, **landed)
    without = columns((0, 0, 1, 1), *four, **nowhere)
    controls = {OWN_LOOKS: {0: own}, NO_LOOKS: {0: without}}
    header, _, first, second = tables.looking(controls)
    assert cells(header)[:5] == ["what is changed", "F1", "precision", "recall", "regions"]
    assert cells(first)[1].startswith("0.750 [") and cells(first)[-1] == ""
    # Covered 0.5 in each of 4 scenes, of which 3 count.
    assert cells(first)[5].startswith("0.100 [") and cells(first)[6].startswith("0.667 [")
    assert cells(second)[-1].startswith("-0.250 [") and cells(second)[6] == "-"
    (row,) = tables.gain_harm(controls)[2:]
    assert cells(row) == [OWN_LOOKS, "50 %", "25 %", "25 %", "+1.000", "-1.000"]


def test_where_variants_look_is_shown_of_those_that_were_measured_so(load, columns):
    tables, variant = load("report.tables"), load("variants").GRPO
    one = ((1,) * 2,) * 3
    looks = {"area": (0.1, 0.3), "ambiguous": (1, 0), "covered": (0.5, 0),
             "covered_at_random": (0.25, 0), "covered_by_oracle": (0.75, 0)}  # fmt: skip
    measured, older = columns(*one, **looks), columns(*one)
    (row,) = tables.where_it_looks([(variant, {0: measured}), (variant, {0: older})])[2:]
    assert [cell.split(" ")[0] for cell in cells(row)[1:]] == ["0.200", "0.500", "0.250", "0.750"]
    assert tables.where_it_looks([(variant, {0: measured, 1: older})]) == []


def test_training_numbers_are_means_of_the_last_steps(load):
    rows = [{"step": k, "reward/total": float(k), "train/entropy": None} for k in range(1, 13)]
    header, _, line = load("report.tables").training({"grpo": {0: rows, 1: rows}})
    assert cells(header)[1] == "reward, each variant's own"
    assert cells(line)[1] == "7.500"  # of 3 to 12
    assert cells(line)[5] == "-"  # the entropy


def test_a_variant_catches_up_at_the_first_step_that_reaches_the_end_of_another(load):
    catching_up = load("report.tables").catching_up

    def log(*measured):
        """Steps that sample 1,000 tokens each, with F1 measured at every second one."""
        rows = [{"rollout/sampled_tokens": 1000.0} for _ in range(2 * len(measured))]
        for row, value in zip(rows[1::2], measured, strict=True):
            row["eval/F1"] = value
        return rows

    logs = {
        "slow": {0: log(0.1, 0.2, 0.3), 1: log(0.1, 0.3, 0.2)},
        "fast": {0: log(0.3, 0.5, 0.4), 1: log(0.0, 0.2, 0.9)},
        "never": {0: log(0.1, 0.1, 0.1), 2: log(0.9, 0.9, 0.9)},
    }
    slow, fast, never = ([cell.strip() for cell in row.split("|")[1:-1]]
                         for row in catching_up(logs, "slow")[2:])  # fmt: skip
    assert slow == ["`slow`", "6 4", "2 of 2", "5"]  # seed 1 ends at .2, which it has at step 4
    assert fast == ["`fast`", "2 4", "2 of 2", "3"]
    assert never == ["`never`", "-", "0 of 1", "-"]  # the other has no seed 2
    assert catching_up({"slow": {0: log()}}, "slow") == []
