"""How soon ``dip`` answers: help and usage errors beside a bare import of a command-line library.

    python examples/benchmarks/cli_speed.py

Each command is a fresh process; the commands take turns, so that a busy machine slows all of them,
and the table has the fastest of ``--rounds`` with the ratio to ``python -c "import tyro"``. Exits
with 1 where an answer takes over 1 s or 150 MB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

REFERENCE = 'python -c "import tyro"'
COMMANDS = {
    'python -c "pass"': ["-c", "pass"],
    REFERENCE: ["-c", "import tyro"],
    'python -c "import dip_env"': ["-c", "import dip_env"],
    'python -c "import dip_agents"': ["-c", "import dip_agents"],
    "dip --help": ["-m", "dip_agents.cli", "--help"],
    "dip --version": ["-m", "dip_agents.cli", "--version"],
    "dip trian": ["-m", "dip_agents.cli", "trian"],
    "dip train --help": ["-m", "dip_agents.cli", "train", "--help"],
    "dip help train": ["-m", "dip_agents.cli", "help", "train"],
    "dip train --stepz 3": ["-m", "dip_agents.cli", "train", "--stepz", "3"],
    "dip train --group-size 1": ["-m", "dip_agents.cli", "train", "--group-size", "1"],
    "dip evaluate --n 0": ["-m", "dip_agents.cli", "evaluate", "--n", "0"],
}
LIMIT_SECONDS, LIMIT_MB = 1.0, 150.0


def measure(words: list[str]) -> tuple[float, float]:
    """Run Python with some words in a process of its own.

    Returns:
        Wall seconds and peak memory in MB.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return time.perf_counter() - began, usage.ru_maxrss / unit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes of each command")
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first warms the file cache
        for name, words in COMMANDS.items():
            found[name].append(measure(words))
    best = {name: tuple(map(min, zip(*runs[1:], strict=True))) for name, runs in found.items()}
    reference = best[REFERENCE][0]
    print("| command | seconds | MB | against the import of tyro |\n|---|---|---|---|")
    for name, (seconds, memory) in best.items():
        print(f"| `{name}` | {seconds:.2f} | {memory:.0f} | {seconds / reference:.1f}x |")
    slow = [
        name
        for name, (seconds, memory) in best.items()
        if name.startswith("dip") and (seconds > LIMIT_SECONDS or memory > LIMIT_MB)
    ]
    print(f"over {LIMIT_SECONDS:g} s or {LIMIT_MB:g} MB: {', '.join(slow) or 'none'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
