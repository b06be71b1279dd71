"""What both sides of ``grpo_vs_trl.py`` share: the task, the reward and how runs are measured.

Standard library only, since one side runs where this project is not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORKLOAD_FILE = "workload.json"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Workload:
    """One task for both sides; its files lie beside it, see ``grpo_vs_trl.prepare``."""

    groups: int = 4
    """P, scenes per step."""
    group_size: int = 8
    """G, rollouts of each scene."""
    turns: int = 1
    """1: answer at once. 2: look once, with two crops, then answer."""
    new_tokens: int = 94
    """Tokens the policy samples per turn, always exactly so many."""
    warmup: int = 8
    """Steps before the clock starts: the first ones of a process are slower."""
    steps: int = 16
    """Timed steps."""
    learning_rate: float = 1e-5
    """Of AdamW."""
    clip_low: float = 0.2
    """Lower clip of the ratio."""
    clip_high: float = 0.28
    """Upper clip of the ratio."""
    view: int = 256
    """Sides of the square overview in pixels."""
    crop: int = 224
    """Sides of the square crops in pixels."""
    scene: int = 256
    """Sides of the square scene in pixels."""
    token_budget: int = 1024
    """Longest rollout, prompt and crops included; never reached."""
    seed: int = 0
    """Of scenes, weights and sampling."""
    prompt: str = ""
    """What the environment says under the overview, see ``grpo_vs_trl.with_texts``."""
    after_crops: str = ""
    """The last line of what it says to a look."""

    @property
    def rollouts(self) -> int:
        """Rollouts per step."""
        return self.groups * self.group_size

    @property
    def scenes(self) -> int:
        """Different scenes in a run: every step has its own."""
        return self.groups * (self.warmup + self.steps)

    def save(self, folder: Path) -> None:
        """Write it into the folder of its files."""
        (folder / WORKLOAD_FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Workload:
        """Read it back."""
        return cls(**json.loads((folder / WORKLOAD_FILE).read_text(encoding="utf-8")))


def reward(text: str) -> float:
    """Return the share of even digits among all characters: cheap, and unequal among siblings."""
    return sum(character in "02468" for character in text) / max(1, len(text))


def regions_of(ids: Sequence[int], view: int) -> list[tuple[int, int, int, int]]:
    """Return where a rollout looks: two regions that depend on what it said.

    Random weights never write a look, so the benchmark reads one out of any turn; siblings see
    different crops, as they would in training.

    Args:
        ids: sampled tokens of the turn.
        view: sides of the overview.

    Returns:
        Two squares of a quarter of the view, xyxy in the view frame.
    """
    side = view // 4
    digest = hashlib.blake2b(json.dumps(list(ids)).encode(), digest_size=4).digest()
    x1, y1, x2, y2 = (int(value) * (view - side) // 255 for value in digest)
    return [(x1, y1, x1 + side, y1 + side), (x2, y2, x2 + side, y2 + side)]


def fingerprint(prompts: Iterable[Sequence[int]]) -> str:
    """Return a hash of the token ids of prompts, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for ids in prompts:
        digest.update(json.dumps([int(i) for i in ids]).encode())
    return digest.hexdigest()


def peak_megabytes() -> float:
    """Return the peak memory of this process.

    Linux's own record is read where there is one: the portable ``ru_maxrss`` begins with what the
    parent had when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def heading(title: str, command: str, device: str) -> list[str]:
    """Return the head of a section of RESULTS.md: command, commit, date and machine.

    Args:
        title: of the section.
        command: that was run.
        device: the accelerator, in words.
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"## {title}",
        "",
        f"- Command: `{command}`",
        f"- Commit: {commit.stdout.strip() or 'unknown'}, date: {time.strftime('%Y-%m-%d')}",
        f"- Machine: {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, {device}; "
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f} at the end",
        "",
    ]


@dataclass(frozen=True)
class Run:
    """What one process measured; times and tokens are those of the timed steps."""

    side: str
    """``ours`` or ``trl``."""
    setting: str
    """How this side was set up."""
    step_seconds: list[float]
    """Wall time of each step, from the end of one to the end of the next."""
    cpu_seconds: float
    """Of all threads over all timed steps; what other jobs on the machine disturb least."""
    rollouts: int
    """Of all timed steps."""
    sampled_tokens: int
    """Sampled by the policy."""
    total_tokens: int
    """Sampled, prompt and what the environment said, images included."""
    lengths: tuple[int, int]
    """Fewest and most tokens the policy sampled in one rollout."""
    prompt_tokens: int
    """Of the first prompt, image included."""
    prompts: str
    """``fingerprint`` of the prompts of the first step."""
    megabytes: float
    """Peak memory of the process."""
    phases: dict[str, float]
    """Seconds per step by phase."""
    versions: dict[str, str]
    """Of the libraries that ran."""

    @property
    def seconds(self) -> float:
        """Wall time of all timed steps."""
        return sum(self.step_seconds)

    @property
    def rollouts_per_second(self) -> float:
        """Whole training: rollouts sampled and learned from, per second."""
        return self.rollouts / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second of training."""
        return self.sampled_tokens / self.seconds

    def to_line(self) -> str:
        """Return the run as one JSON line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_output(cls, text: str) -> Run:
        """Read the run from the output of its process: the last line that is a JSON object.

        Raises:
            ValueError: when there is none.
        """
        for line in reversed(text.splitlines()):
            if line.startswith("{"):
                values: dict[str, Any] = json.loads(line)
                values["lengths"] = tuple(values["lengths"])
                return cls(**values)
        raise ValueError(f"expected a JSON line from the process, got {text[-300:]!r}")


def check_same_work(ours: Run, other: Run, turns: int = 1) -> None:
    """Refuse to compare runs that did different work.

    Args:
        ours: a run of our side.
        other: its partner.
        turns: of a rollout.

    Raises:
        ValueError: names what differs.
    """
    for name in ("rollouts", "sampled_tokens", "lengths", "prompt_tokens", "prompts"):
        a, b = getattr(ours, name), getattr(other, name)
        if a != b:
            raise ValueError(f"{name}: expected the same on both sides, got {a} and {b}")
    # We close a turn that was cut at its limit with the end of turn, TRL does not.
    closed = ours.rollouts * (turns - 1)
    if ours.total_tokens != other.total_tokens + closed:
        raise ValueError(
            f"total_tokens: expected {ours.total_tokens} - {closed} on TRL's side, "
            f"got {other.total_tokens}"
        )


@dataclass(frozen=True)
class Spread:
    """A ratio over several pairs of runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Show median and range."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the ratio of runs that followed each other, so that slow drifts cancel.

    Args:
        above: one value per pair.
        below: its partner, above 0.

    Returns:
        Median and range of ``above / below``.
    """
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
