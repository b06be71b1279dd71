"""A run's log has every step once, also after a kill and a resume."""

import io
import itertools
import json
import math
import re
import time

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dip_agents.runtime.errors import CheckpointError
from dip_agents.runtime.logger import PhaseTimer, RunLogger, cut_lines_after, read_metrics


def quiet(folder, **settings):
    return RunLogger(folder, 10, console=Console(file=io.StringIO()), **settings)


def scalars(folder, key):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


def test_numbers_are_in_the_files_before_log_returns(tmp_path):
    logger = quiet(tmp_path)
    logger.start()
    logger.log(1, {"reward/total": 0.5, "train/loss": math.nan})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "reward/total": 0.5, "train/loss": None}
    logger.close()
    assert scalars(tmp_path, "reward/total") == [(1, 0.5)]


def test_after_a_resume_every_step_is_there_once(tmp_path):
    killed = quiet(tmp_path)
    killed.start()
    for step in range(1, 6):
        killed.log(step, {"reward/total": float(step)})
    with killed.metrics_path.open("a") as file:
        file.write('{"step": 6, "rew')  # the kill came in the middle of a line
    # No close: the process is gone. TensorBoard orders files by the second in their name.
    time.sleep(1.1)
    with quiet(tmp_path) as resumed:
        resumed.start(step=3)
        for step in range(4, 7):
            resumed.log(step, {"reward/total": 10.0 * step})
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["reward/total"]) for row in rows] == expected
    assert scalars(tmp_path, "reward/total") == expected


def test_a_broken_line_in_the_middle_is_damage_and_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2: expected JSON"):
        read_metrics(path)
    with pytest.raises(CheckpointError, match="line 2"):
        cut_lines_after(path, 1)
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b'{"step": 1}\n\xff\n', "expected a log of numbers"),
        (b'{"step": 1}\n[]\n', r"line 2: expected the numbers of a step, got \[\]"),
        (b'{"step": 1}\n{}\n', "line 2: expected the numbers of a step"),
        (b'{"step": 1}\n{"step": "2"}\n', "line 2: expected the numbers of a step"),
        (b'{"step": 1}\n{"step": 2, "a": "x"}\n', "line 2: a: expected a number, got x"),
        (b'{"step": 1}\n{"step": 3}\n', "line 2: expected step 2, got 3"),
        (b'{"step": 1}\n{"step": 1}\n', "line 2: expected step 2, got 1"),
        (b"[" * 100_000 + b'\n{"step": 1}\n', "line 1: expected JSON"),
        (b'{"step": 1}\n{"st', "expected the numbers of 2 steps, as the checkpoint has, got 1"),
        (b"", "expected the numbers of 2 steps, as the checkpoint has, got 0"),
    ],
)
def test_a_damaged_log_is_named_before_a_run_goes_on(tmp_path, damaged, message):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl.*{message}"):
        quiet(tmp_path).start(step=2)
    assert path.read_bytes() == damaged


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert read_metrics(tmp_path / "absent") == []
    cut_lines_after(tmp_path / "absent", 3)
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_one_line_each_n_steps_with_the_time_left(tmp_path, monkeypatch):
    clock = itertools.count(0, 100)  # a step takes 100 seconds
    monkeypatch.setattr("dip_agents.runtime.logger.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    values = {"reward/total": 0.25, "reward/accuracy": 0.125, "other": 9.0}
    with RunLogger(tmp_path, 7, print_interval=1, console=Console(file=out)) as logger:
        logger.start(step=4)
        for step in (5, 6, 7):
            logger.log(step, values)
    assert out.getvalue().splitlines() == [
        "step 5/7  reward 0.250  accuracy 0.125  3 min 20 s left",
        "step 6/7  reward 0.250  accuracy 0.125  1 min 40 s left",
        "step 7/7  reward 0.250  accuracy 0.125",
    ]
    out = io.StringIO()
    with RunLogger(tmp_path / "few", 5, print_interval=2, console=Console(file=out)) as logger:
        logger.start()
        for step in range(1, 6):
            logger.log(step, values)
    assert [line.partition("  ")[0] for line in out.getvalue().splitlines()] == [
        f"step {step}/5" for step in (1, 2, 4, 5)
    ]


ALL_NUMBERS = {
    **{"reward/total": 0.217, "reward/accuracy": 0.095, "reward/look": 0.408},
    **{"rollout/regions": 3.0, "train/entropy": 1.859, "time/step": 12.5},
}


def test_an_80_column_terminal_keeps_count_time_left_and_a_line_of_each_step(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, legacy_windows=False)
    with RunLogger(tmp_path, 120, console=console) as logger:
        logger.start(step=117)
        for step in (118, 119):
            logger.log(step, ALL_NUMBERS)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if line.startswith("train")]
    assert bars[-1].split()[-2] == "119/120"
    assert re.fullmatch(r"[-\d]+:[-\d]+:[-\d]+", bars[-1].split()[-1])
    steps = [line for line in lines if line.startswith("step")]
    assert [line.partition("  ")[0] for line in steps] == ["step 118/120", "step 119/120"]
    assert all("reward 0.217" in line and "s/step 12.500" in line for line in steps)


def test_a_wide_terminal_shows_all_numbers_of_a_step(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with RunLogger(tmp_path, 5, console=console) as logger:
        logger.start(step=2)
        logger.log(3, ALL_NUMBERS)
    assert "3/5" in out.getvalue()
    assert "regions 3.000  entropy 1.859" in out.getvalue()


def test_fine_tuning_shows_its_loss(tmp_path):
    out = io.StringIO()
    with RunLogger(tmp_path, 1, console=Console(file=out)) as logger:
        logger.start()
        logger.log(1, {"sft/loss": 2.5, "sft/token_accuracy": 0.5, "time/step": 1.0})
    assert out.getvalue() == "step 1/1  loss 2.500  token accuracy 0.500  s/step 1.000\n"


def test_completions_are_written_at_the_first_and_each_nth_step_and_cut_on_resume(tmp_path):
    row = dict.fromkeys(("scene", "member", "turns", "regions", "length", "policy_tokens"), 0)
    row |= {"reward": 1.0, "advantage": 0.0, "terms": {}, "ending": "answer", "transcript": []}
    with quiet(tmp_path, completions_interval=3) as logger:
        logger.start()
        for step in range(1, 8):
            logger.completions(step, [row | {"step": step}])
        names = sorted(path.name for path in (tmp_path / "completions").glob("*.jsonl"))
        assert names == ["step_000001.jsonl", "step_000003.jsonl", "step_000006.jsonl"]
        logger.start(step=4)
    names = sorted(path.name for path in (tmp_path / "completions").glob("*.jsonl"))
    assert names == ["step_000001.jsonl", "step_000003.jsonl"]


def test_a_problem_is_reported_once_also_by_a_run_that_was_resumed(tmp_path):
    def run(folder, steps, finished=0):
        out = io.StringIO()
        with RunLogger(folder, 12, print_interval=0, console=Console(file=out)) as logger:
            logger.start(finished)
            for step in range(finished + 1, steps + 1):
                share = 0.0 if 3 <= step <= 8 else 0.5
                logger.log(step, {"group/frac_informative": share, "train/loss": math.nan})
        return out.getvalue().splitlines()

    whole = run(tmp_path / "whole", 12)
    assert [line.partition(": ")[0] for line in whole] == ["step 5", "step 11"]
    assert whole[0].startswith("step 5: diagnostic begins: nothing to learn: 0 % of groups have")
    assert whole[1] == "step 11: diagnostic ends: nothing to learn"
    assert (tmp_path / "whole" / "diagnostics.txt").read_text().splitlines() == whole
    assert run(tmp_path / "parts", 7) == whole[:1]
    assert run(tmp_path / "parts", 12, finished=4) == whole  # cut off before it was reported
    assert run(tmp_path / "parts", 12, finished=6) == whole[1:]
    assert (tmp_path / "parts" / "diagnostics.txt").read_text().splitlines() == whole


def test_a_healthy_run_has_no_file_of_diagnostics(tmp_path):
    with quiet(tmp_path) as logger:
        logger.start()
        for step in range(1, 8):
            logger.log(step, {"group/frac_informative": 0.5})
    assert not logger.diagnostics_path.exists()


def test_logging_before_the_start_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"expected start\(\)"):
        quiet(tmp_path).log(1, {})


def test_phases_add_up_and_start_anew():
    timer = PhaseTimer()
    for _ in range(2):
        with timer.phase("collect"):
            time.sleep(0.01)
    with timer.phase("update"):
        pass
    taken = timer.take()
    assert taken["time/collect"] >= 0.02
    assert taken["time/step"] == pytest.approx(taken["time/collect"] + taken["time/update"])
    assert timer.take() == {"time/step": 0}
