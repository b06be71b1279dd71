"""Play a plan: some processes side by side, what is finished never again, stoppable at any time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from examples.studies.rewards.plan import Job

WORKER = ("-m", "examples.studies.rewards.worker")
"""How Python is told to play one run; the root of the checkout is the folder it starts in."""
JOB, DONE, LOG, MODEL = "job.json", "done.json", "log.txt", "model"
GRACE = 60.0
"""Seconds that runs have to save what they can when the study is stopped."""


@dataclass(frozen=True)
class Ways:
    """How runs are made; no result depends on it.

    Args:
        out: folder of the folders.
        model: name of the starting model.
        device: ``auto``, ``cpu`` or ``cuda``.
        photos: folder of the photographs, or None.
        command: what was typed.
        at_once: processes side by side.
        threads: CPU threads of each.
    """

    out: Path
    model: str
    device: str
    photos: str | None
    command: str
    at_once: int = 2
    threads: int = 1


def finished(out: Path, job: Job) -> bool:
    """Tell whether a run has been done."""
    return (out / job.folder / DONE).is_file()


def record_of(out: Path, job: Job) -> dict[str, Any]:
    """Return when, where and how long a finished run was made."""
    found: dict[str, Any] = json.loads((out / job.folder / DONE).read_text(encoding="utf-8"))
    return found


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    partial = path.with_name(f"unfinished-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def play(jobs: Sequence[Job], ways: Ways, say: Callable[[str], None] = print) -> list[Job]:
    """Do what is not finished, each run after the one it needs.

    A run that fails stops no other, but those that need it. On SIGINT and SIGTERM all runs are told
    to stop and save, and KeyboardInterrupt is raised.

    Args:
        jobs: the plan, in the order of preference.
        ways: how.
        say: told one line for each run that begins or ends.

    Returns:
        The runs that are still not finished: they failed, or need one that did.
    """
    _repeat_models(jobs, ways.out, say)
    waiting = [job for job in jobs if not finished(ways.out, job)]
    if len(jobs) > len(waiting):
        say(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished already")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: set[str] = set()
    ended, total = 0, len(waiting)
    before = {one: signal.signal(one, _stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        while True:
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                ended += 1
                good = finished(ways.out, job)
                failed |= set() if good else {job.folder}
                say(f"[{ended}/{total}] {_end(ways.out, job, good)}")
            ready = [job for job in waiting if job.needs is None or finished(ways.out, job.needs)]
            for job in ready[: ways.at_once - len(running)]:
                waiting.remove(job)
                running[job] = _start(job, ways)
                say(f"begins: {job.folder}")
            if not running:
                break
            time.sleep(0.2)
    finally:
        _end_all(list(running.values()))
        for one, handler in before.items():
            signal.signal(one, handler)
    return [job for job in jobs if not finished(ways.out, job)]


def _repeat_models(jobs: Sequence[Job], out: Path, say: Callable[[str], None]) -> None:
    """Forget trainings whose model is needed and not there, as those of an archive."""
    needed = {job.needs.folder: job.needs for job in jobs if job.needs and not finished(out, job)}
    for name, job in needed.items():
        if finished(out, job) and not (out / name / MODEL).is_dir():
            say(f"again, since its model is needed: {name}")
            shutil.rmtree(out / name)


def _start(job: Job, ways: Ways) -> subprocess.Popen[bytes]:
    folder = ways.out / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "setting": job.setting,
        "needs": job.needs.folder if job.needs else None,
        "model": ways.model,
        "device": ways.device,
        "photos": ways.photos,
        "command": ways.command,
    }
    write_whole(folder / JOB, json.dumps(record, indent=2) + "\n")
    environment = os.environ | {
        "OMP_NUM_THREADS": str(ways.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *WORKER, str(folder), str(os.getpid())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which hands it on once
        )


def _end(out: Path, job: Job, good: bool) -> str:
    if good:
        return f"{job.folder}: {record_of(out, job)['seconds']:.0f} s"
    lines = (out / job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{job.folder}: FAILED: {lines[-1] if lines else 'no output'}"


def _end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell processes to stop, and make those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
