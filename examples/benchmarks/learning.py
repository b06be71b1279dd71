"""Does ``dip train`` learn? Runs it for several seeds and reports the paired gain of each.

    python examples/benchmarks/learning.py            # seeds 0, 1 and 2, the defaults of dip train

Exits with 1 when the 95 % interval of a reward gain does not lie above 0. The scenes of the
evaluation are never trained on: the ``val`` split shares no scene with ``train``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHOWN = ("reward", "format", "look", "accuracy", "precision", "recall", "F1", "boxes_per_truth")


def main() -> int:
    """Run every seed and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    arguments, passed_on = parser.parse_known_args()
    rows, learned = [], True
    for seed in arguments.seeds:
        out = arguments.out / f"seed_{seed}"
        began = time.perf_counter()
        command = [Path(sys.executable).with_name("dip"), "train"]
        command += ["--seed", str(seed), "--out", str(out), *passed_on]
        subprocess.run([str(word) for word in command], check=True)
        minutes = (time.perf_counter() - began) / 60
        result = json.loads((out / "result.json").read_text())
        gain = result["paired_gain"]["reward"]
        learned &= gain["low"] > 0
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
    print("every reward gain lies above 0" if learned else "a reward gain does not lie above 0")
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(main())
