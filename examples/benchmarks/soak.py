"""A thousand steps of ``dip train`` and of ``dip sft``: their memory must stay flat.

    python examples/benchmarks/soak.py

Both commands run as a user would run them, on tiny settings: a small model with random weights and
drawn scenes of 96 x 72 pixels. Memory is read ten times a second, that of the command and of its
worker processes together (the kernel's proportional share, so that nothing counts twice). What is
compared is the highest memory of the second tenth of the steps, when everything is loaded and
cached, with that of the last tenth. Exits with 1 where it has grown by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from dip_agents import VLM, save_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_env import EpisodeConfig

GROWTH_LIMIT = 1.05
SCENES = ["--scenes", "easy", "--source-arg", "size=[96,72]"]
RULES = ["--view-size", "64", "--crop-size", "64", "--size-multiple", "32"]
TRAIN = [
    *("train", "--scenes-per-step", "1", "--group-size", "2", "--max-new-tokens", "8", "--n", "1"),
    *("--zero-variance-groups", "drop", "--checkpoint-interval", "250"),
]
SFT = ["sft", "--batch-size", "2", "--workers", "0", "--checkpoint-interval", "250", "--n", "1"]


@dataclass(frozen=True)
class Soak:
    """One command's memory over its steps.

    Args:
        name: of the command.
        steps: number of steps.
        seconds: of all of them.
        early: highest megabytes in the second tenth of the steps.
        late: the same in the last tenth.
    """

    name: str
    steps: int
    seconds: float
    early: float
    late: float

    @property
    def growth(self) -> float:
        """Late over early: 1 is flat."""
        return self.late / self.early


def megabytes(process: psutil.Process) -> float:
    """Return the proportional share of memory of a process and of those it has started."""
    found = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            found += one.memory_full_info().pss / 2**20
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue
    return found


def last_step(metrics: Path) -> int:
    """Return the newest step in a log, 0 before the first."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines[-2:] if line.endswith("}")]
    return max(steps, default=0)


def soak(words: list[str], steps: int, folder: Path, interval: float = 0.1) -> Soak:
    """Run a command of ``dip`` and watch its memory.

    Args:
        words: the command without steps and folder.
        steps: of the run.
        folder: for its output; must not exist.
        interval: seconds between two readings.

    Raises:
        RuntimeError: when the command fails, or too few steps were seen.
    """
    command = [sys.executable, "-m", "dip_agents.cli", *words, "--steps", str(steps)]
    log = folder.with_suffix(".log")
    began = time.perf_counter()
    with log.open("w") as file:
        run = subprocess.Popen([*command, "--out", str(folder)], stdout=file, stderr=file)
        process = psutil.Process(run.pid)
        seen: list[tuple[int, float]] = []
        while run.poll() is None:
            step = last_step(folder / "metrics.jsonl")
            try:
                seen.append((step, megabytes(process)))
            except psutil.NoSuchProcess:
                break
            time.sleep(interval)
    if run.wait():
        raise RuntimeError(f"{' '.join(words)} failed: {log.read_text()[-2000:]}")
    early = [size for step, size in seen if steps // 10 <= step < steps // 5]
    late = [size for step, size in seen if steps - steps // 10 <= step < steps]
    if not early or not late:
        raise RuntimeError(f"expected readings of all {steps} steps, got {len(seen)} in all")
    return Soak(words[0], steps, time.perf_counter() - began, max(early), max(late))


def write_model(folder: Path) -> Path:
    """Write a model with random weights, small enough for a thousand steps in minutes."""
    model, processor = build_tiny(tiny_texts(), seed=0, size="micro")
    rules = EpisodeConfig(view_size=64, crop_size=64, size_multiple=32, minimal_prompt=True)
    save_model(VLM(model, processor), folder, rules)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="of each command, at least 20")
    parser.add_argument("--only", choices=["train", "sft"], help="one of the two")
    arguments = parser.parse_args()
    if arguments.steps < 20:
        parser.error(f"--steps: expected at least 20, got {arguments.steps}")
    found = []
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name) / "model")
        for words in (TRAIN, SFT):
            if arguments.only in (None, words[0]):
                full = [*words, "--model", str(model), *SCENES, *RULES]
                found.append(soak(full, arguments.steps, Path(name) / words[0]))
    print("| command | steps | s | MB, second tenth | MB, last tenth | growth | limit | |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for one in found:
        verdict = "pass" if one.growth <= GROWTH_LIMIT else "MISSED"
        print(
            f"| dip {one.name} | {one.steps} | {one.seconds:.0f} | {one.early:.0f} | "
            f"{one.late:.0f} | {one.growth:.3f} x | {GROWTH_LIMIT} x | {verdict} |"
        )
    return int(any(one.growth > GROWTH_LIMIT for one in found))


if __name__ == "__main__":
    sys.exit(main())
