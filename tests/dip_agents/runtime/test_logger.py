"""A run's log has every step once, also after a kill and a resume."""

import io
import json
import math
import time

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: expected JSON"):
        read_metrics(path)
    with pytest.raises(ValueError, match="line 2"):
        cut_lines_after(path, 1)
    assert path.read_text().count("\n") == 3


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert read_metrics(tmp_path / "absent") == []
    cut_lines_after(tmp_path / "absent", 3)
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_one_line_each_n_steps_and_at_the_end(tmp_path):
    out = io.StringIO()
    with RunLogger(tmp_path, 5, print_interval=2, console=Console(file=out)) as logger:
        logger.start()
        for step in range(1, 6):
            logger.log(step, {"reward/total": 0.25, "reward/accuracy": 0.125, "other": 9.0})
    assert out.getvalue().splitlines() == [
        f"step {step}/5  reward 0.250  accuracy 0.125" for step in (2, 4, 5)
    ]


def test_on_a_terminal_a_bar_shows_step_and_reward(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with RunLogger(tmp_path, 5, console=console) as logger:
        logger.start(step=2)
        logger.log(3, {"reward/total": 0.25})
    assert "3/5" in out.getvalue()
    assert "reward 0.250" in out.getvalue()


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
