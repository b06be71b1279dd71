from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("matplotlib")


@pytest.fixture
def context(load, toy_study, start):
    def make(study, jobs):
        results = load("report.results").Results(jobs, study.out)
        return load("report.sections").Context(study, start, results, study.out)

    return make


@pytest.fixture
def jobs(load, toy_study, start):
    return load("plan").plan(toy_study, start)


def links(text):
    return re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)


def test_a_report_holds_every_part_and_its_pictures(load, toy_study, context, jobs, finish):
    for job in jobs:
        finish(job, toy_study.out, miss_rate=0.6 if job.variant == "base" else 0.2, steps=12)
    path = load("report.write").write_report(context(toy_study, jobs))
    text = path.read_text()
    for heading in (
        "## What comes out",
        "## 1. What",
        "## 2. Acc",
        "## 3. In",
        "## 4. Does",
        "## 5. Conf",
        "## 6. W",
        "## 7. W",
    ):
        assert heading in text
    assert "Not finished" not in text
    assert "- Command: `python -m examples.studies.rewards`" in text
    assert "- Commit: abc1234; date: 2026-01-02" in text
    assert f"{len(jobs)} runs, {len(jobs) * 90 / 3600:.2f} hours" in text
    assert str(toy_study.out) not in text
    assert "photographs" not in text.lower().replace("photographs: not measured", "")
    shown = links(text)
    assert len(shown) == len(set(shown)) == 10
    for name in shown:
        with Image.open(path.parent / name) as picture:
            assert picture.width <= 1500, name
    assert {f"figures/{p.name}" for p in (path.parent / "figures").iterdir()} == set(shown)


def test_numbers_of_the_report_are_those_of_the_folders(load, toy_study, context, jobs, finish):
    study = replace(toy_study, only="core")
    for job in load("plan").plan(study, context(study, jobs).start):
        finish(job, study.out, miss_rate=0.6)
    measured = next(j for j in jobs if (j.kind, j.variant) == ("measure", "base"))
    columns = json.loads((study.out / measured.folder / "result.json").read_text())["columns"]
    tp, counted = (sum(row[0] for row in columns[name]) for name in ("tp", "counted"))
    f1 = 2 * tp / (counted + sum(columns["people"]))
    assert 0 < f1 < 1
    text = load("report.write").write_report(context(study, jobs)).read_text()
    assert f"| `base` | - | {f1:.3f} [" in text


def test_the_same_folders_give_the_same_files(load, toy_study, context, jobs, finish):
    for job in jobs[:4]:
        finish(job, toy_study.out, steps=12)

    def written():
        path = load("report.write").write_report(context(toy_study, jobs))
        files = [path, *sorted((path.parent / "figures").iterdir())]
        return {file.name: file.read_bytes() for file in files}

    first = written()
    assert len(first) == 3
    assert written() == first


def test_a_named_study_leaves_the_report_of_another_alone(load, toy_study, context, jobs, finish):
    study = replace(toy_study, name="small", variants="base,grpo", only="core")
    for job in load("plan").plan(study, context(study, jobs).start):
        finish(job, study.out)
    path = load("report.write").write_report(
        context(study, load("plan").plan(study, context(study, jobs).start))
    )
    assert path.name == "RESULTS_small.md"
    text = path.read_text()
    assert "](figures_small/core.png)" in text
    assert not (path.parent / "figures").exists()
    assert "sft_random_looks" not in text  # nobody asked for it, so that nothing is missing
    assert "not finished" not in text.lower()


def test_a_report_on_parts_says_what_is_missing(load, toy_study, context, jobs, finish):
    done = [j for j in jobs if j.seed in (None, 0) and j.variant in ("base", "grpo")]
    done = [j for j in done if j.kind != "looking"]
    for job in done:
        finish(job, toy_study.out, steps=3)
    text = load("report.write").write_report(context(toy_study, jobs)).read_text()
    assert f"**Not finished: {len(jobs) - len(done)} of {len(jobs)} runs" in text
    missing = [job for job in jobs if job not in done]
    assert all(f"- `{job.folder}`" in text for job in missing)
    assert "`sft_random_looks` is not finished: nothing to compare with." in text
    said = text.partition("## What comes out")[2].partition("## 1.")[0]
    assert "- `toy`: `grpo` is" in said and "than `sft_random_looks`" not in said
    assert "## 4." not in text


def test_what_comes_out_compares_all_that_can_be_compared(load, toy_study, jobs, finish):
    for job in jobs:
        finish(job, toy_study.out, miss_rate=0.0 if job.variant == "grpo" else 0.9)
    said = load("report.summary").summary(
        toy_study, load("report.results").Results(jobs, toy_study.out)
    )
    lines = [line for line in said if line.startswith("- ")]
    for variant in (
        "base",
        "sft_random_looks",
        "sft_oracle_looks",
        "grpo_episode",
        "grpo_no_look_reward",
        "weighted_05",
    ):
        (line,) = (line for line in lines if f"than `{variant}`" in line)
        assert line.startswith("- `toy`: `grpo` is **better** than")
    assert sum("`own looks` is" in line for line in lines) == 2
    assert len(lines) == len({*lines}) == 3 + 8 + 5 + 2


@pytest.mark.parametrize(("misses", "ahead"), [(0.0, True), (0.6, False)])
def test_grpo_leads_where_it_finds_more_than_both(
    load, toy_study, context, jobs, finish, misses, ahead
):
    module = load("report.sections")
    assert not module.grpo_leads(context(toy_study, jobs))
    for job in jobs:
        if job.kind == "measure" and job.variant in (
            "base",
            "sft_random_looks",
            "grpo_no_look_reward",
            "grpo",
        ):
            finish(job, toy_study.out, miss_rate=misses if job.variant == "grpo" else 0.6)
    assert module.grpo_leads(context(toy_study, jobs)) is ahead


def test_nothing_finished_is_a_report_too(load, toy_study, context, jobs):
    text = load("report.write").write_report(context(toy_study, jobs)).read_text()
    assert f"**Not finished: {len(jobs)} of {len(jobs)} runs" in text
    assert links(text) == [] and "## 1." not in text and "comes out" not in text


def test_the_worst_and_the_best_scenes_are_chosen_the_same_way_always(load, columns):
    # F1 of 0, 1, 0, 1, and a scene without people.
    found = columns((0, 1, 0, 1, 0), (1, 1, 1, 1, 0), (1, 1, 1, 1, 0))
    measured = load("measure.answers").Measured((5, 6, 7, 8, 9), found, ((),) * 5)
    assert load("report.gallery").worst_and_best(measured, 3) == ([0, 2, 1], [1, 3, 0])


def test_a_missing_matplotlib_is_named_before_hours_of_runs(load, monkeypatch, capsys):
    monkeypatch.setattr("dip_agents.runtime.optional.find_spec", lambda name: None)
    assert load("__main__").main(["--report"]) == 2
    assert "error: expected the package matplotlib" in capsys.readouterr().err


def test_a_curve_is_smoothed_by_its_neighbours(load):
    rows = [{"step": k, "a": 10.0 if k == 10 else 0.0} for k in range(1, 21)]
    steps, values = load("report.plots")._series(rows, "a")
    assert steps == list(range(1, 21))
    assert values[7:12] == pytest.approx([2.0] * 5) and values.sum() == pytest.approx(10.0)
    assert load("report.plots")._series(rows, "b") is None
    assert list(load("report.plots")._series(rows[:3], "a")[1]) == [0.0] * 3


def test_the_commands_of_the_report_know_their_options(load):
    words = set(re.findall(r"--[a-z-]+", load("__main__").__doc__))
    assert words == {"--out", "--report", "--quick", "--only", "--write"}
    fields = load("config").Study.__dataclass_fields__
    assert all(word[2:].replace("-", "_") in fields for word in words)
    assert load("__main__").__package__ == load("report.provenance").MODULE


@pytest.mark.parametrize("out", [["--out", "my/runs"], ["--out=my/runs"], []])
def test_a_command_is_told_without_the_folder_of_its_user(load, out):
    command_of = load("report.provenance").command_of
    told = "python -m examples.studies.rewards --seeds 0 1 --quick"
    assert command_of(["--seeds", "0", "1", *out, "--quick"]) == told
