"""Logs of a run: TensorBoard, JSON lines, the terminal.

Diagnostics of the metrics are printed when they begin and when they end, see ``diagnostics.py``.

Steps count from 1: step k is what happened during update k. Everything about step k is on disk
before the checkpoint of step k is, so a resumed log has neither holes nor repeats.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dip_agents.runtime.completions import drop_steps_after, write_completions
from dip_agents.runtime.diagnostics import DiagnosticsMonitor
from dip_agents.runtime.durations import format_duration
from dip_agents.runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HEADLINE = {
    "reward/total": "reward",
    "reward/accuracy": "accuracy",
    "reward/look": "look",
    "sft/loss": "loss",
    "sft/token_accuracy": "token accuracy",
    "time/step": "s/step",
    "rollout/regions": "regions",
    "train/entropy": "entropy",
}
"""Metrics in the line of a step, where the step has them, and their short names.

A terminal that is too narrow for all shows the first ones."""


class PhaseTimer:
    """Adds up the seconds each phase of a step takes."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside the ``with`` block and add it to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Return ``time/<phase>`` and their sum ``time/step`` in seconds, and start anew."""
        taken = {f"time/{name}": seconds for name, seconds in self._seconds.items()}
        taken["time/step"] = sum(self._seconds.values())
        self._seconds.clear()
        return taken


class RunLogger:
    """Writes one run: metrics, ``tensorboard/``, completions, diagnostics and the terminal.

    Call ``start`` before the first step and ``close`` after the last, or use it in a ``with``.

    Args:
        folder: of the run, made when missing.
        total_steps: for the progress bar.
        print_interval: one line is printed at the first step, each so many steps, and at the last;
            0 for none.
        completions_interval: the completions table is written each so many steps, and at step 1;
            0 for never.
        console: where to print; default standard output.
    """

    def __init__(
        self,
        folder: Path | str,
        total_steps: int,
        *,
        print_interval: int = 1,
        completions_interval: int = 10,
        console: Console | None = None,
    ) -> None:
        """Store the settings; files are opened by ``start``."""
        self.folder = Path(folder)
        self.total_steps = total_steps
        self.print_interval = print_interval
        self.completions_interval = completions_interval
        self.console = console or Console()
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None
        self._first, self._started = 1, 0.0
        self._monitor = DiagnosticsMonitor()

    @property
    def metrics_path(self) -> Path:
        """The file with one JSON object per step."""
        return self.folder / "metrics.jsonl"

    @property
    def diagnostics_path(self) -> Path:
        """The file with a line for each diagnostic that began or ended; missing while none did."""
        return self.folder / "diagnostics.txt"

    def start(self, step: int = 0) -> None:
        """Open the log after ``step`` finished steps; what it holds of later ones is cut off.

        Args:
            step: 0 for a new run, else that of the checkpoint.

        Raises:
            CheckpointError: for a log that is damaged or ends before that step.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        cut_lines_after(self.metrics_path, step)
        for name in ("completions", "traces"):
            drop_steps_after(self.folder / name, step)
        self._replay_metrics()
        self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        self._first, self._started = step + 1, time.monotonic()
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("train"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,  # the lines of the steps stay
            )
            self._progress.add_task("train", total=self.total_steps, completed=step)
            self._progress.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers of one step everywhere, and make sure they are in the files.

        Args:
            step: from 1.
            metrics: log key -> number; NaN and infinities become null in the JSON lines.

        Raises:
            RuntimeError: before ``start``.
        """
        if self._writer is None:
            raise RuntimeError("RunLogger.log: expected start() before the first step")
        values = {key: v if math.isfinite(v) else None for key, v in metrics.items()}
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()
        self._print_step(step, metrics)
        for line in self._observed(step, values):
            self.console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the completions table when this step is one of those that get one.

        Args:
            step: from 1.
            rows: of the table, see ``write_completions``.
        """
        every = self.completions_interval
        if every and (step == 1 or step % every == 0):
            write_completions(self.folder / "completions", rows)

    def close(self) -> None:
        """Close files and progress bar; may be called twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> Self:
        """Return itself; the trainer, which knows the step, calls ``start``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close, whatever happened."""
        self.close()

    def _replay_metrics(self) -> None:
        """Bring monitor and diagnostics file to the last step of the metrics."""
        self._monitor = DiagnosticsMonitor()
        self.diagnostics_path.unlink(missing_ok=True)
        for row in read_metrics(self.metrics_path):
            self._observed(int(row["step"] or 0), row)

    def _observed(self, step: int, values: Mapping[str, float | None]) -> list[str]:
        """Return and write the diagnostics that began or ended with a step."""
        lines = [f"step {step}: {line}" for line in self._monitor.observe(values)]
        if lines:
            with self.diagnostics_path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        return lines

    def _print_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, refresh=True)
        every = self.print_interval
        if every and (step % every == 0 or step in (self._first, self.total_steps)):
            line = self._step_line(step, metrics)
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _step_line(self, step: int, metrics: Mapping[str, float]) -> str:
        """Return a step's numbers: what fits on a terminal, which has a bar for the time left."""
        line = f"step {step}/{self.total_steps}"
        for name, value in ((HEADLINE[key], metrics[key]) for key in HEADLINE if key in metrics):
            longer = f"{line}  {name} {value:.3f}"
            if self._progress is not None and len(longer) > self.console.width:
                break
            line = longer
        if self._progress is not None or step == self.total_steps:
            return line
        per_step = (time.monotonic() - self._started) / (step - self._first + 1)
        return f"{line}  {format_duration(per_step * (self.total_steps - step))} left"


def read_metrics(path: Path | str) -> list[dict[str, float | None]]:
    """Read ``metrics.jsonl``; a last line that a kill cut short is left out.

    Args:
        path: the file; may not exist.

    Returns:
        One dict per step, in the order of the file.

    Raises:
        CheckpointError: for a line that is no step, unless it is the last one and cut short; that
            is damage, not a kill.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: expected a log of numbers, got: {error}") from error
    rows: list[dict[str, float | None]] = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise CheckpointError(f"{where}: expected JSON, got: {error}") from error
            continue
        _check_row(row, rows[-1]["step"] if rows else None, where)
        rows.append(row)
    return rows


def _check_row(row: Any, before: float | None, where: str) -> None:
    """Check that a line of the log holds the numbers of the step after the one before it."""
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise CheckpointError(f"{where}: expected the numbers of a step, got {str(row)[:60]}")
    if before is not None and row["step"] != before + 1:
        raise CheckpointError(f"{where}: expected step {before + 1:g}, got {row['step']}")
    for key, value in row.items():
        if value is not None and not isinstance(value, int | float):
            raise CheckpointError(f"{where}: {key}: expected a number, got {str(value)[:60]}")


def cut_lines_after(path: Path, step: int) -> None:
    """Drop the lines of steps after ``step`` from a JSON-lines file, in one atomic move.

    Args:
        path: the file; may not exist.
        step: the last step to keep.

    Raises:
        CheckpointError: for a damaged file, or one that ends before that step.
    """
    if not path.is_file():
        return
    rows = [row for row in read_metrics(path) if (row["step"] or 0) <= step]
    last = int(rows[-1]["step"] or 0) if rows else 0
    if last != step:
        raise CheckpointError(
            f"{path}: expected the numbers of {step} steps, as the checkpoint has, got {last}; "
            "move the file away to go on without them"
        )
    shorter = path.with_name(f"unfinished-{path.name}")
    shorter.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(shorter, path)
