"""Attack the library at random, and tell what came of it.

``python -m tests.attacks --minutes 10`` plays every module of this package that has a function
``attack(rng, tries)``, in turn and each with its own random numbers, until the time is up. Nothing
but a result or an error of the library may come of a try. Exits with 1 where anything else did.
A module whose ``NEEDS`` names a package that is not installed is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

Found = dict[str, tuple[int, list[str]]]
"""By kind: how many tries, and a sentence for each that failed."""
Attack = Callable[[np.random.Generator, int], Found]

TRIES = 20
"""Tries of a module in each turn."""
SHOWN = 10
"""Most failures of a kind that are printed."""


def find_attacks() -> tuple[dict[str, Attack], dict[str, str]]:
    """Return the attacks of this package, and what those need that cannot be played here.

    Returns:
        Attacks by the names of their modules; and by the names of the other modules, the first
        package of their ``NEEDS`` that is not installed.
    """
    found: dict[str, Attack] = {}
    left_out: dict[str, str] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith(("test_", "_")):
            continue
        imported = importlib.import_module(f"tests.attacks.{module.name}")
        needs = getattr(imported, "NEEDS", ())
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        if missing:
            left_out[module.name] = missing[0]
        elif hasattr(imported, "attack"):
            found[module.name] = imported.attack
    return found, left_out


def play(attacks: Mapping[str, Attack], seconds: float, seed: int) -> Found:
    """Play attacks in turn until the time is up, each once at least.

    Args:
        attacks: by name.
        seconds: of the clock; a turn that has begun is finished.
        seed: of all tries; the n-th turn of an attack is the same whatever else is played.

    Returns:
        What came of it, by name and kind.
    """
    found: Found = {}
    began, turn = time.monotonic(), 0
    while True:
        for name, attack in attacks.items():
            if turn and time.monotonic() - began >= seconds:
                return found
            rng = np.random.default_rng([seed, turn, *name.encode()])
            for kind, (tries, failures) in attack(rng, TRIES).items():
                before, known = found.setdefault(f"{name}: {kind}", (0, []))
                told = [f"seed {seed}, turn {turn}: {failure}" for failure in failures]
                found[f"{name}: {kind}"] = before + tries, known + told
        turn += 1


def table(found: Found) -> str:
    """Return tries and failures by kind as aligned columns, and the failures below them."""
    width = max(map(len, (*found, "all")))
    rows = [f"{'kind':{width}}  {'tries':>9}  {'failures':>8}"]
    for kind, (tries, failures) in sorted(found.items()):
        rows.append(f"{kind:{width}}  {tries:9,}  {len(failures):8,}")
    tries = sum(count for count, _ in found.values())
    rows.append(f"{'all':{width}}  {tries:9,}  {failed(found):8,}")
    for kind, (_, failures) in sorted(found.items()):
        rows += [f"\n{kind}"] if failures else []
        rows += [f"  {failure}" for failure in failures[:SHOWN]]
        if len(failures) > SHOWN:
            rows.append(f"  and {len(failures) - SHOWN} more")
    return "\n".join(rows)


def failed(found: Found) -> int:
    """Return how many tries failed."""
    return sum(len(failures) for _, failures in found.values())


def main(words: Sequence[str] | None = None) -> int:
    """Attack, and return the exit code."""
    attacks, left_out = find_attacks()
    for name, package in left_out.items():
        print(f"{name}: left out, {package} is not installed")
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, by the clock")
    parser.add_argument("--seed", type=int, default=0, help="of all tries")
    parser.add_argument(
        "--kinds", nargs="+", choices=sorted(attacks), default=sorted(attacks), metavar="KIND",
        help=f"modules to play: {', '.join(sorted(attacks))}",
    )  # fmt: skip
    given = parser.parse_args(words)
    chosen = {name: attacks[name] for name in given.kinds}
    found = play(chosen, 60.0 * given.minutes, given.seed)
    print(table(found))
    return 1 if failed(found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
