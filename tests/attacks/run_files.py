"""Damage the files of a run, and go on with it.

Nothing but an error that names the file may come of it, or a run that goes on with the very weights
it had. ``kills`` and ``full_disks`` are slow: they train in other processes and compare bit for
bit.
"""

from __future__ import annotations

import errno
import filecmp
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.config_files import read_config
from dip_agents.cli.options import options_of
from dip_agents.cli.run_folder import read_record
from dip_agents.runtime.checkpoints import (
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.runtime.logger import RunLogger
from dip_agents.runtime.resuming import check_fits, reading_state
from dip_env.errors import DipError

SECONDS = 5.0
"""Computing that a try may take."""
STEPS = 3
CONFIG = {"steps": STEPS, "learning_rate": 0.1}
Found = dict[str, tuple[int, list[str]]]


def attack(rng: np.random.Generator, tries: int) -> Found:
    """Damage files of a run at random, and go on with it.

    Args:
        rng: what the tries depend on.
        tries: how many of them, shared evenly among the kinds of damage.

    Returns:
        By kind of damage: its tries, and a sentence for each that failed.
    """
    found: Found = {}
    share = -(-tries // len(DAMAGES))
    with tempfile.TemporaryDirectory() as scratch:
        whole = make_run(Path(scratch) / "whole")
        for kind, damage in DAMAGES.items():
            failures = []
            for seed in rng.integers(2**32, size=share).tolist():
                folder = Path(scratch) / "run"
                shutil.copytree(whole, folder)
                words = damage(np.random.default_rng(seed), folder)
                told = failure_of(folder)
                if told is not None:
                    failures.append(f"{kind}, seed {seed}, {words}: {told}")
                shutil.rmtree(folder)
            found[kind] = share, failures
    return found


def learner() -> tuple[nn.Linear, torch.optim.AdamW]:
    """Return something that learns, always the same."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def learn(model: nn.Linear, optimizer: torch.optim.AdamW) -> None:
    """Take one step."""
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def make_run(out: Path) -> Path:
    """Write a run with all that ``dip train`` keeps of it, three checkpoints of three steps."""
    model, optimizer = learner()
    with RunLogger(out, STEPS, print_interval=0, console=Console(file=io.StringIO())) as logger:
        logger.start()
        for step in range(1, STEPS + 1):
            learn(model, optimizer)
            logger.log(step, {"reward/total": step / 7, "time/step": 0.1})
            save_checkpoint(
                out / "checkpoints", step, model.state_dict(), optimizer.state_dict(), CONFIG,
                {"token_limit": step},
            )  # fmt: skip
    (out / "run.json").write_text('{"format": 1, "sessions": [{"state": "finished"}]}\n')
    (out / "config.toml").write_text('command = "audit"\nn = 3\nscenes = "easy"\n')
    return out


@cache
def weights_of() -> tuple[dict[str, Tensor], ...]:
    """Return the weights after each step."""
    model, optimizer = learner()
    found = []
    for _ in range(STEPS):
        learn(model, optimizer)
        found.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return tuple(found)


def failure_of(out: Path) -> str | None:
    """Go on with a run, and return what is wrong with how that ended, None where nothing is."""
    began = time.process_time()
    for read in (go_on, read_settings, read_record):
        try:
            read(out)
        except DipError as error:
            if str(out) not in str(error):
                return f"the message names no file: {error}"
        except Exception as error:  # what is looked for
            return f"{type(error).__name__}: {str(error)[:200]}"
    taken = time.process_time() - began
    return f"took {taken:.1f} s" if taken > SECONDS else None


def go_on(out: Path) -> None:
    """Load the newest checkpoint, or else the one that the error names, and open the log."""
    root = out / "checkpoints"
    try:
        found = load_checkpoint(latest_checkpoint(root) or root, CONFIG)
    except DipError as error:
        named = re.match(r"(\S+) is whole: go on from there", " ".join(error.__notes__))
        if named is None:
            raise
        found = load_checkpoint(find_checkpoint(root, Path(named[1]).name), CONFIG)
    model, optimizer = learner()
    check_fits(found, model.state_dict())
    with reading_state(found):
        optimizer.load_state_dict(found.optimizer)
        found.extra["token_limit"]
    model.load_state_dict(found.weights)
    right = weights_of()[found.step - 1]
    if not all(tensor.equal(right[name]) for name, tensor in model.state_dict().items()):
        raise AssertionError(f"went on after step {found.step} with other weights")
    with RunLogger(out, STEPS, print_interval=0, console=Console(file=io.StringIO())) as logger:
        logger.start(found.step)


def read_settings(out: Path) -> None:
    """Read the settings as a resumed run does."""
    if (out / "config.toml").exists():
        options = options_of(COMMANDS["audit"].load().Settings)  # type: ignore[attr-defined]
        read_config(out / "config.toml", "audit", options)


def files_of(out: Path) -> list[Path]:
    """Return the files that a resumed run reads."""
    found = [path for path in out.rglob("*") if path.is_file() and "events." not in path.name]
    return sorted(found)


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Return one of several."""
    return values[int(rng.integers(len(values)))]


def flip(rng: np.random.Generator, out: Path) -> str:
    """Flip some bits of a file."""
    path = pick(rng, files_of(out))
    raw = bytearray(path.read_bytes())
    places = rng.integers(len(raw), size=int(rng.integers(1, 4))).tolist()
    for place in places:
        raw[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)
    return f"{path.relative_to(out)}, bits of bytes {places} flipped"


def cut(rng: np.random.Generator, out: Path) -> str:
    """Cut a file short."""
    path = pick(rng, files_of(out))
    raw = path.read_bytes()
    kept = int(rng.integers(len(raw)))
    path.write_bytes(raw[:kept])
    return f"{path.relative_to(out)} cut to {kept} bytes"


def places_of(out: Path) -> list[Path]:
    """Return the files of a run and the folders of its checkpoints."""
    return [*files_of(out), *sorted((out / "checkpoints").glob("step_*"))]


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def delete(rng: np.random.Generator, out: Path) -> str:
    """Delete a file or a folder."""
    path = pick(rng, places_of(out))
    remove(path)
    return f"without {path.relative_to(out)}"


def swap(rng: np.random.Generator, out: Path) -> str:
    """Put a file or a folder in the place of another."""
    places = places_of(out)
    source, target = pick(rng, places), pick(rng, places)
    if source == target or source in target.parents or target in source.parents:
        return "nothing"
    held = out.with_name("held")
    os.rename(target, held)
    os.rename(source, target)
    if rng.random() < 0.5:
        os.rename(held, source)
    else:
        remove(held)
    return f"{source.relative_to(out)} in the place of {target.relative_to(out)}"


def replace(rng: np.random.Generator, out: Path) -> str:
    """Write something else into a file."""
    path = pick(rng, files_of(out))
    contents = {
        "nothing": b"",
        "a byte that is no text": b"\xff\xfe",
        "a long word": b"x" * 5000,
        "an object": b"{}",
        "a list": b"[]",
        "null": b"null\n",
        "brackets": b"[" * 200_000,
        "a path": b"../../etc/passwd",
        "noise": rng.bytes(300),
        "a number": b"9" * 5000,
    }
    name = pick(rng, sorted(contents))
    if rng.random() < 0.5:
        path.write_bytes(contents[name])
        return f"{path.relative_to(out)} is {name}"
    lines = path.read_bytes().split(b"\n")
    lines[int(rng.integers(len(lines)))] = contents[name]
    path.write_bytes(b"\n".join(lines))
    return f"a line of {path.relative_to(out)} is {name}"


def become(rng: np.random.Generator, out: Path) -> str:
    """Make a folder of a file."""
    path = pick(rng, files_of(out))
    path.unlink()
    path.mkdir()
    return f"{path.relative_to(out)} is a folder"


DAMAGES: dict[str, Callable[[np.random.Generator, Path], str]] = {
    "flip": flip,
    "cut": cut,
    "delete": delete,
    "swap": swap,
    "replace": replace,
    "folder": become,
}

TRAIN = (
    *("train", "--steps", "6", "--scenes-per-step", "2", "--group-size", "3", "--n", "0"),
    *("--scenes", "toy", "--max-new-tokens", "16", "--dtype", "float32", "--device", "cpu"),
    *("--checkpoint-interval", "1"),
)
"""A run of seconds with the bundled model."""


@contextmanager
def whole_run(scratch: Path) -> Iterator[Path]:
    """Train without an interruption."""
    dip(scratch / "whole", check=True)
    yield scratch / "whole"


def dip(
    out: Path, *words: str, check: bool = False, room: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Train into a folder; with room, no file may be longer than that, in bytes."""

    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [sys.executable, "-m", "dip_agents.cli", *TRAIN, "--out", str(out), *words]
    return subprocess.run(command, capture_output=True, text=True, check=check, preexec_fn=limit)


def compare(whole: Path, out: Path) -> list[str]:
    """Return what differs between a run and one that was interrupted and went on."""
    told = []
    for name in ("model/model.safetensors", "checkpoints/step_000006/weights.safetensors"):
        if not filecmp.cmp(whole / name, out / name, shallow=False):
            told.append(f"{name} differs")
    steps = [line.split(",")[0] for line in (out / "metrics.jsonl").read_text().splitlines()]
    if steps != [f'{{"step": {step}' for step in range(1, 7)]:
        told.append(f"metrics.jsonl holds {steps}")
    return told


def kills(rng: np.random.Generator, tries: int) -> Found:
    """Kill trainings at random moments, resume them, and compare bit for bit."""
    failures = []
    with tempfile.TemporaryDirectory() as scratch, whole_run(Path(scratch)) as whole:
        for number in range(tries):
            out = Path(scratch) / f"killed_{number}"
            command = [sys.executable, "-m", "dip_agents.cli", *TRAIN, "--out", str(out)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_for_a_step(process, out, int(rng.integers(1, 6)))
            time.sleep(float(rng.uniform(0, 0.5)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done = dip(out, "--resume")
            told = compare(whole, out) if done.returncode == 0 else [done.stderr[-300:]]
            failures += [f"kill {number}: {words}" for words in told]
    return {"kill": (tries, failures)}


def wait_for_a_step(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    """Wait until a step is logged, or the process has ended."""
    log = out / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.02)


def full_disks(rng: np.random.Generator, tries: int) -> Found:
    """Let no file grow beyond some size, as on a full disk; then resume with room, and compare."""
    failures = []
    with tempfile.TemporaryDirectory() as scratch, whole_run(Path(scratch)) as whole:
        sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        for number in range(tries):
            out = Path(scratch) / f"full_{number}"
            room = int(np.exp(rng.uniform(np.log(200), np.log(max(sizes)))))
            done = dip(out, room=room)
            told = []
            line = done.stderr.strip()
            if done.returncode != 2 or os.strerror(errno.EFBIG) not in line or "Traceback" in line:
                told.append(f"exit {done.returncode}, {line[-300:]}")
            again = dip(out, "--resume")
            told += compare(whole, out) if again.returncode == 0 else [again.stderr[-300:]]
            failures += [f"room for {room} bytes: {words}" for words in told]
    return {"full disk": (tries, failures)}
