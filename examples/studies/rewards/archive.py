"""Keep what finished runs found in one file, so that a study is reported on and goes on elsewhere.

Numbers, actions and logs are kept, weights and checkpoints are not.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

from examples.studies.rewards.plan import Job
from examples.studies.rewards.runs import finished

KEPT = {".json", ".jsonl"}
"""Endings of the files of a run that hold what it found."""


def pack(jobs: Sequence[Job], out: Path, archive: Path) -> int:
    """Write the finished runs of a plan into an archive, and keep those of other plans in it.

    The same runs make the same bytes.

    Args:
        jobs: the plan.
        out: folder of the runs; what the archive held is unpacked there first.
        archive: the file, ``.tar.xz``.

    Returns:
        How many runs it holds.
    """
    unpack(archive, out)
    names = {job.folder for job in jobs if finished(out, job)} | _held(archive)
    folders = [out / name for name in sorted(names)]
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in (path for folder in folders for path in sorted(folder.iterdir())):
            if path.is_file() and path.suffix in KEPT:
                member = tarfile.TarInfo(path.relative_to(out).as_posix())
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)
    return len(folders)


def unpack(archive: Path, out: Path, jobs: Sequence[Job] | None = None) -> int:
    """Put the runs of an archive where a study looks for them; those that are there stay.

    Args:
        archive: made by ``pack``; it may be missing.
        out: folder of the runs.
        jobs: the plan, whose runs alone are wanted; all of them by default.

    Returns:
        How many runs were added.
    """
    held = _held(archive)
    names = held if jobs is None else held & {job.folder for job in jobs}
    missing = {name for name in names if not (out / name).exists()}
    if missing:
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar if _run_of(member) in missing]
            tar.extractall(out, wanted, filter="data")
    return len(missing)


def _held(archive: Path) -> set[str]:
    """Return the names of the runs in an archive; none where it is missing."""
    if not archive.is_file():
        return set()
    with tarfile.open(archive) as tar:
        return {_run_of(member) for member in tar}


def _run_of(member: tarfile.TarInfo) -> str:
    return member.name.partition("/")[0]
