"""Where a command prints, and how long things take while they do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dip_agents.runtime.durations import format_duration

PIPED_WIDTH = 100
"""Characters in a line where no terminal says how many fit."""

OnDone = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


def make_console(*, errors: bool = False) -> Console:
    """Return where a command prints.

    Args:
        errors: standard error, so that standard output holds one JSON object and nothing else.
    """
    stream = sys.stderr if errors else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=errors, width=PIPED_WIDTH if piped else None)


@contextmanager
def progress(console: Console, label: str) -> Iterator[OnDone]:
    """Show how far something is and the time left: a bar on a terminal, else a line each tenth.

    Args:
        console: where to.
        label: what is being done.

    Yields:
        What to call with (done, in all).
    """
    if not console.is_terminal:
        yield _Lines(console, label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Prints a line each time another tenth is done, at most one a second."""

    def __init__(self, console: Console, label: str) -> None:
        """Note when it began, and say so: what is slow should not look dead."""
        self.console, self.label = console, label
        self.began = self.printed = time.monotonic()
        self.tenth = 0
        self._print(f"{label} ...")

    def __call__(self, done: int, total: int) -> None:
        """Print where a line is due.

        Args:
            done: so far.
            total: in all.
        """
        now = time.monotonic()
        tenth = 10 * done // max(total, 1)
        if tenth <= self.tenth or (now - self.printed < 1 and done < total):
            return
        self.tenth, self.printed = tenth, now
        seconds = now - self.began
        left = seconds / done * (total - done)
        time_left = (
            f", {format_duration(left)} left" if done < total else f" in {format_duration(seconds)}"
        )
        self._print(f"{self.label} {done}/{total}{time_left}")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def say_libraries_load(console: Console) -> None:
    """Tell that torch is being imported, which takes seconds, unless it has been."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        say(console, "loading torch ...")


def columns(rows: Sequence[Sequence[str]], indent: Mapping[int, int] | None = None) -> list[str]:
    """Align rows of cells: the first column to the left, the others to the right.

    Args:
        rows: of equal length; the first is the head.
        indent: spaces before a row, by its number.

    Returns:
        A line for each row.
    """
    shifted = [
        [" " * (indent or {}).get(number, 0) + row[0], *row[1:]] for number, row in enumerate(rows)
    ]
    widths = [max(len(row[column]) for row in shifted) for column in range(len(shifted[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in shifted
    ]


def say(console: Console, *lines: str, **style: Any) -> None:
    """Print lines as they are: no markup, no colouring of numbers, no wrapping."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True, **style)
