"""What the finished runs of a plan hold; reads their folders, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dip_agents.runtime import read_metrics
from examples.studies.rewards.measure.agreement import Agreement, load_agreement
from examples.studies.rewards.measure.answers import Columns, Measured
from examples.studies.rewards.measure.looking import load_looking
from examples.studies.rewards.measure.noise import load_noise
from examples.studies.rewards.plan import Job, Kind
from examples.studies.rewards.report.stats import Runs
from examples.studies.rewards.runs import finished, record_of

Logs = Mapping[str, Mapping[int | None, Sequence[Mapping[str, float | None]]]]
"""Logged numbers of each step by key, by variant and seed."""


class Results:
    """The finished runs among those of a plan.

    Args:
        jobs: the plan.
        out: folder of the folders.
    """

    def __init__(self, jobs: Sequence[Job], out: Path) -> None:
        """Look which are finished; nothing is read yet."""
        self.out = out
        self.done = [job for job in jobs if finished(out, job)]
        self.missing = [job for job in jobs if not finished(out, job)]
        self._read: dict[str, Measured] = {}

    def jobs(self, kind: Kind, variant: str, scenes: str | None = None) -> list[Job]:
        """Return finished runs of a variant, in the order of the plan.

        Args:
            kind: of the runs.
            variant: its name.
            scenes: what they were measured on; None for all.
        """
        return [
            job
            for job in self.done
            if job.kind == kind and job.variant == variant and scenes in (None, job.scenes)
        ]

    def measured(self, job: Job) -> Measured:
        """Return what a run measured."""
        if job.folder not in self._read:
            self._read[job.folder] = Measured.load(self.out / job.folder)
        return self._read[job.folder]

    def runs(self, variant: str, scenes: str) -> Runs:
        """Return a variant's numbers of each scene, by seed; empty where nothing is finished."""
        return {
            job.seed: self.measured(job).columns for job in self.jobs("measure", variant, scenes)
        }

    def looking(self, variant: str) -> dict[str, dict[int | None, Columns]]:
        """Return a variant's numbers of each scene by control, then by seed."""
        found: dict[str, dict[int | None, Columns]] = {}
        for job in self.jobs("looking", variant):
            for control, columns in load_looking(self.out / job.folder).items():
                found.setdefault(control, {})[job.seed] = columns
        return found

    def agreement(self, variant: str) -> dict[int | None, Agreement]:
        """Return the metrics of single samples and of their consensus, by seed."""
        return {
            job.seed: load_agreement(self.out / job.folder)
            for job in self.jobs("agreement", variant)
        }

    def noise(self, variant: str) -> Runs:
        """Return the sums of two groups in each scene; empty where nothing is finished."""
        return {job.seed: load_noise(self.out / job.folder) for job in self.jobs("noise", variant)}

    def logs(self, variant: str) -> dict[int | None, list[dict[str, float | None]]]:
        """Return the logged numbers of each step, by seed; without runs that logged nothing."""
        found = {
            job.seed: read_metrics(self.out / job.folder / "metrics.jsonl")
            for job in self.jobs("train", variant)
        }
        return {seed: rows for seed, rows in found.items() if rows}

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """When, where and how long each finished run was made, by folder."""
        return {job.folder: record_of(self.out, job) for job in self.done}
