"""What more groups cost: seconds per rollout and memory of GRPO at 1, 2, 4 and 8 groups a step.

    python examples/benchmarks/grpo_growth.py

The workload is that of ``grpo_vs_trl.py``, one turn or, with ``--multi-turn``, two with crops; each
size is a process of its own. Cost is linear where a rollout takes as long in a large step as in a
small one. Exits with 1 where one of the largest step takes over 1.15 times one of the smallest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from grpo_vs_trl import MULTI_TURN, SINGLE_TURN, SMOKE, ours, prepare
from grpo_workload import Run

SIZES = (1, 2, 4, 8)
GROWTH_LIMIT = 1.15


def per_rollout(run: Run) -> float:
    """Return milliseconds per rollout, from the median step."""
    steps = len(run.step_seconds)
    return 1000 * statistics.median(run.step_seconds) * steps / run.rollouts


def table(runs: dict[int, Run]) -> list[str]:
    """Return the Markdown table of runs by number of groups."""
    first = per_rollout(runs[min(runs)])
    lines = [
        "| groups | rollouts | tokens | s per step | ms per rollout | to the smallest | peak MB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for groups, run in runs.items():
        steps = len(run.step_seconds)
        each = per_rollout(run)
        lines.append(
            f"| {groups} | {run.rollouts // steps} | {run.total_tokens // steps} | "
            f"{statistics.median(run.step_seconds):.2f} | {each:.1f} | {each / first:.2f} x | "
            f"{run.megabytes:.0f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--multi-turn", action="store_true", help="a look between two turns")
    parser.add_argument("--threads", type=int, default=2, help="of the process")
    parser.add_argument("--smoke", action="store_true", help="a tiny task; its times say nothing")
    arguments = parser.parse_args()
    work = replace(MULTI_TURN if arguments.multi_turn else SINGLE_TURN, warmup=3, steps=4)
    if arguments.smoke:
        work = replace(work, **SMOKE)
    runs = {}
    for groups in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(replace(work, groups=groups), folder, "micro" if arguments.smoke else "tiny")
            runs[groups] = ours(folder, arguments.threads)
    print("\n".join(table(runs)))
    growth = per_rollout(runs[max(SIZES)]) / per_rollout(runs[min(SIZES)])
    verdict = "pass" if growth <= GROWTH_LIMIT else "MISSED"
    print(f"\na rollout of the largest step: {growth:.2f} x, limit {GROWTH_LIMIT} x: {verdict}")
    return int(growth > GROWTH_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
