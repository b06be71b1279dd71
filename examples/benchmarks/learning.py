"""Does ``dip train`` learn where to look? Runs it for several seeds and reports each one's gains.

    python examples/benchmarks/learning.py            # seeds 0, 1 and 2, the defaults of dip train

Exits with 1 and says what is missed, where a seed's looks do not cover twice as much of the people
worth a look as before and 80 % of what the oracle's cover, or its F1 does not rise by .15 with the
95 % intervals apart, or it takes more than 12 minutes. The scenes of the evaluation are never
trained on: the ``val`` split shares no scene with ``train``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dip_agents import EvalResult, load_evaluation

SHOWN = (
    *("look_coverage", "look_coverage_random", "look_coverage_oracle", "look_area", "F1"),
    *("precision", "recall", "reward", "format", "look", "accuracy", "boxes_per_truth"),
)
TIMES_COVERED, SHARE_OF_ORACLE, F1_GAIN, MINUTES = 2.0, 0.8, 0.15, 12.0


def missed(before: EvalResult, after: EvalResult, minutes: float) -> list[str]:
    """Return what a run misses, in words; nothing where it learned what it should.

    Args:
        before: of the model that training started from.
        after: of the trained one, on the same scenes.
        minutes: that the whole run took.
    """
    names = ("look_coverage", "look_coverage_oracle", "F1")
    was, now = (_numbers(result, names) for result in (before, after))
    covered = now["look_coverage"]
    reached = {
        f"look coverage at least {TIMES_COVERED:g} times that before": (
            covered >= TIMES_COVERED * was["look_coverage"]
        ),
        f"look coverage at least {SHARE_OF_ORACLE:.0%} of the oracle's": (
            covered >= SHARE_OF_ORACLE * now["look_coverage_oracle"]
        ),
        f"F1 up by at least {F1_GAIN}": now["F1"] - was["F1"] >= F1_GAIN,
        "intervals of F1 apart": now["F1 low"] > was["F1 high"],
        f"at most {MINUTES:g} minutes": minutes <= MINUTES,
    }
    return [words for words, good in reached.items() if not good]


def _numbers(result: EvalResult, names: Sequence[str]) -> dict[str, float]:
    """Return values and ends of intervals by name.

    Raises:
        ValueError: for a metric that is not defined, such as the coverage where nobody may look.
    """
    found: dict[str, float] = {}
    for name in names:
        interval = result.metrics[name]
        if interval.value is None or interval.low is None or interval.high is None:
            raise ValueError(f"{name}: expected a value with an interval, got {interval}")
        found |= {name: interval.value, f"{name} low": interval.low, f"{name} high": interval.high}
    return found


def main() -> int:
    """Run every seed and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    arguments, passed_on = parser.parse_known_args()
    rows, shortfalls = [], []
    for seed in arguments.seeds:
        out = arguments.out / f"seed_{seed}"
        began = time.perf_counter()
        command = [Path(sys.executable).with_name("dip"), "train"]
        command += ["--seed", str(seed), "--out", str(out), *passed_on]
        subprocess.run([str(word) for word in command], check=True)
        minutes = (time.perf_counter() - began) / 60
        result = json.loads((out / "result.json").read_text())
        ends = (load_evaluation(out / name) for name in ("before", "after"))
        shortfalls += [f"seed {seed}: {words}" for words in missed(*ends, minutes)]
        for name in SHOWN:
            change = result["paired_gain"][name]
            rows.append(
                f"| {seed} | {name} | {result['before'][name]:.3f} | {result['after'][name]:.3f} | "
                f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] |"
            )
        rows.append(f"| {seed} | minutes | | {minutes:.1f} | |")
        steps = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
        seconds = statistics.median(step["time/step"] for step in steps)
        rows.append(f"| {seed} | seconds of a step, median | | {seconds:.1f} | |")
    print("\n| seed | metric | before | after | paired gain [95 % interval] |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest process: {peak:.0f} MB")
    print(
        "\n".join(["missed:", *shortfalls] if shortfalls else ["every seed learned where to look"])
    )
    return 1 if shortfalls else 0


if __name__ == "__main__":
    sys.exit(main())
