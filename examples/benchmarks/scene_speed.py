"""What it costs to draw procedural scenes of 1280x960 pixels, for every preset on one core.

    python examples/benchmarks/scene_speed.py

Every preset is drawn in a process of its own: first some scenes that are not timed, since a process
makes its textures and the film grain of each strength once, then each timed scene in turns with a
yardstick, a blur and a reduction of a picture of the same size with bare Pillow. The limits are in
yardsticks, so that a slow machine misses none. Times are CPU time: medians of single scenes, and
the scenes per second from the sum over all, which also has the large ones. The exit code is 1 when
a limit is missed. Needs the core install only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

LIMITS = {"easy": 0.7, "far": 1.4, "crowd": 1.6, "night": 1.7, "drone": 1.6, "dense": 3.9}
"""The median scene of each preset, yardsticks."""
MEGABYTES_LIMIT = 200.0
SIZE = (1280, 960)


@dataclass(frozen=True)
class Measured:
    """What one process measured: CPU seconds of each scene and yardstick, and its memory."""

    scenes: list[float]
    yardsticks: list[float]
    megabytes: float

    @property
    def ratio(self) -> float:
        """The median scene over the median yardstick."""
        return statistics.median(self.scenes) / statistics.median(self.yardsticks)


def work(preset: str, scenes: int, warm: int, size: tuple[int, int]) -> Measured:
    """Draw scenes of a preset in turns with the yardstick.

    Args:
        preset: name of the preset.
        scenes: how many are timed.
        warm: how many are drawn before.
        size: (width, height) in pixels.
    """
    from PIL import Image, ImageFilter

    from dip_env.scenes import make_source

    source = make_source(preset, size=size)
    for index in range(scenes, scenes + warm):
        picture = source[index].image
    times: tuple[list[float], list[float]] = ([], [])

    def yardstick() -> None:
        blurred = picture.filter(ImageFilter.GaussianBlur(1))
        blurred.resize((size[0] // 2, size[1] // 2), Image.Resampling.BICUBIC)

    for index in range(scenes):
        start = time.process_time()
        source[index]
        middle = time.process_time()
        yardstick()
        times[0].append(middle - start)
        times[1].append(time.process_time() - middle)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return Measured(*times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def measure(preset: str, scenes: int, warm: int, size: tuple[int, int]) -> Measured:
    """Run ``work`` in a process of its own."""
    numbers = [str(number) for number in (scenes, warm, *size)]
    output = subprocess.run(
        [sys.executable, __file__, "--worker", preset, *numbers],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Measured(**json.loads(output.stdout))


def report(found: dict[str, Measured]) -> int:
    """Print the table and the verdict; return the exit code."""
    print("| preset | ms, median | scenes per s and core | peak MB | yardsticks | limit | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    missed = []
    for preset, run in found.items():
        limit = LIMITS[preset]
        kept = run.ratio <= limit and run.megabytes <= MEGABYTES_LIMIT
        missed += [] if kept else [preset]
        print(
            f"| {preset} | {1e3 * statistics.median(run.scenes):.1f} "
            f"| {len(run.scenes) / sum(run.scenes):.1f} | {run.megabytes:.0f} | {run.ratio:.2f} "
            f"| {limit:g} | {'pass' if kept else 'MISSED'} |"
        )
    yardsticks = [seconds for run in found.values() for seconds in run.yardsticks]
    print(f"\nthe yardstick: {1e3 * statistics.median(yardsticks):.1f} ms")
    print(f"over its yardsticks or {MEGABYTES_LIMIT:g} MB: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=32, help="timed of each preset")
    parser.add_argument("--warm", type=int, default=24, help="drawn before, not timed")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="pixels")
    parser.add_argument("--presets", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        preset, *numbers = args.worker
        scenes, warm, width, height = map(int, numbers)
        print(json.dumps(vars(work(preset, scenes, warm, (width, height)))))
        return 0
    size = (args.size[0], args.size[1])
    return report({name: measure(name, args.scenes, args.warm, size) for name in args.presets})


if __name__ == "__main__":
    sys.exit(main())
