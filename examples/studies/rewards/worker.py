"""Do one run of the study, in a process of its own; ``runs.py`` starts it.

    python -m examples.studies.rewards.worker FOLDER [PARENT]

It ends when the process PARENT is no longer its parent. The folder holds ``job.json``, the whole
setting. A run that was interrupted goes on from its last checkpoint; ``done.json`` appears when
everything is written, and says where, when and how long.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from dip_agents import (
    GRPOConfig,
    LoadedModel,
    Sampling,
    SFTConfig,
    engine_for,
    evaluate_model,
    load_model,
    save_model,
    train_grpo,
    train_sft,
)
from dip_agents.grpo import RolloutLimits
from dip_agents.models import fingerprint
from dip_agents.runtime.errors import error_line
from dip_env import DipError, EpisodeConfig, RewardConfig, SceneSource, make_source
from dip_env.errors import ConfigError
from dip_env.scenes import SlicedScenes
from examples.studies.rewards.measure.agreement import measure_agreement
from examples.studies.rewards.measure.answers import measure, policy_of
from examples.studies.rewards.measure.looking import measure_looking
from examples.studies.rewards.measure.noise import measure_noise
from examples.studies.rewards.plan import GRPO_HABITS, SFT_HABITS
from examples.studies.rewards.report.provenance import provenance
from examples.studies.rewards.runs import DONE, JOB, MODEL, write_whole

SPENT, CHECKPOINTS = "seconds.txt", "checkpoints"
PATIENCE = 60.0
"""Seconds to wait for an older process to leave the folder."""
WATCHED = (
    *("F1", "precision", "recall", "reward", "looks_per_episode", "boxes_per_truth"),
    "look_coverage",
)
"""What is measured on held-out scenes while GRPO learns."""


def main() -> int:
    folder = Path(sys.argv[1])
    disable_progress_bar()
    if len(sys.argv) > 2:
        threading.Thread(target=_leave_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    try:
        with _alone(folder):
            if not (folder / DONE).is_file():
                do(folder)
    except DipError as error:
        print(f"error: {error_line(error)}", file=sys.stderr)
        return 2
    return 0


def do(folder: Path) -> None:
    """Do the run of a folder and write ``done.json``.

    Args:
        folder: holds ``job.json``; of the other runs its neighbours.

    Raises:
        ConfigError: when the model to start from is not the one of the setting.
    """
    clock = Clock(folder)
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    with clock.running():
        _do(job, folder)
    record = {"seconds": round(clock.seconds(), 1), **provenance(job["command"])}
    write_whole(folder / DONE, json.dumps(record, indent=2) + "\n")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _do(job: Mapping[str, Any], folder: Path) -> None:
    """Train or measure."""
    setting, needed = job["setting"], job["needs"]
    seed = setting["config"]["seed"] if setting["kind"] == "train" else 0
    name = str(folder.parent / needed / MODEL) if needed else job["model"]
    frozen = setting.get("freeze_vision", False)
    loaded = load_model(name, device=job["device"], freeze_vision=frozen, seed=seed)
    if not needed:
        found = fingerprint(loaded.vlm.model.state_dict())
        if found != setting["start"]:
            raise ConfigError(
                f"{folder / JOB}: expected weights {setting['start']}, got {found} of model {name}"
            )
    if setting["kind"] == "train":
        train(loaded, setting, folder)
    else:
        held_out, indices = held_out_scenes(setting["scenes"], job["photos"])
        rules = read_rules(setting["rules"])
        if setting["kind"] == "noise":
            sampling = Sampling(setting["temperature"], **setting["limits"])
            engine = engine_for(loaded.vlm)
            measure_noise(engine, held_out, indices, rules, setting["group_size"], sampling, folder)
            return
        policy = policy_of(loaded.vlm, setting["limits"], setting.get("temperature", 0.0))
        if setting["kind"] == "looking":
            measure_looking(policy, held_out, indices, rules, folder)
        elif setting["kind"] == "agreement":
            measure_agreement(policy, held_out, indices, rules, setting["samples"], folder)
        else:
            measure(policy, held_out, indices, rules).save(folder)


def train(loaded: LoadedModel, setting: Mapping[str, Any], folder: Path) -> None:
    """Train a model and leave its weights, in half precision, and its logs in the folder.

    Args:
        loaded: the model; changed.
        setting: of the run.
        folder: of the run; goes on from the checkpoints there.
    """
    rules, scenes, limits = read_rules(setting["rules"]), setting["scenes"], setting["limits"]
    source = SlicedScenes(make_source(scenes["preset"]), scenes["first"], scenes["count"])
    console = Console(width=140)
    if setting["learns"] == "demonstrations":
        sft = SFTConfig(**as_tuples(setting["config"]), **SFT_HABITS)
        train_sft(loaded, source, rules, sft, len(source), folder, resume=True, console=console)
    else:
        grpo = GRPOConfig(**as_tuples(setting["config"]), **GRPO_HABITS)
        watch = setting["watch"]
        held_out = make_source(watch["preset"], split="val")
        indices = range(watch["first"], watch["first"] + watch["count"])

        def watched(step: int) -> dict[str, float]:
            result = evaluate_model(loaded.vlm, held_out, indices, rules, **limits)
            values = {name: result.metrics[name].value for name in WATCHED}
            return {name: value for name, value in values.items() if value is not None}

        train_grpo(
            loaded,
            source,
            rules,
            grpo,
            folder,
            evaluate=watched if indices else None,
            limits=RolloutLimits(**limits),
            resume=True,
            console=console,
        )
    save_model(loaded.vlm, folder / MODEL, rules, half=True)


def held_out_scenes(scenes: Mapping[str, Any], photos: str | None) -> tuple[SceneSource, range]:
    """Open what a run is measured on.

    Args:
        scenes: of the setting.
        photos: folder of the photographs, where the setting names some.

    Returns:
        A source, and which of its scenes.
    """
    if "photos" in scenes:
        source = make_source("coco", photos)
        return source, range(len(source))
    source = make_source(scenes["preset"], split="val")
    return source, range(scenes["first"], scenes["first"] + scenes["count"])


def read_rules(values: Mapping[str, Any]) -> EpisodeConfig:
    """Return episode rules from the plain values of a setting."""
    return EpisodeConfig(**{**values, "reward": RewardConfig(**values["reward"])})


def as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON makes of tuples back."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


class Clock:
    """Wall time that a run has taken, over all its processes: those that were killed count too.

    Args:
        folder: of the run; keeps the time.
    """

    def __init__(self, folder: Path) -> None:
        """Go on from what earlier processes took."""
        self.file, self.began, self.before = folder / SPENT, time.monotonic(), 0.0
        self._over = threading.Event()
        with suppress(FileNotFoundError):
            self.before = float(self.file.read_text())

    def seconds(self) -> float:
        """Return the time so far."""
        return self.before + time.monotonic() - self.began

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write the time down every few seconds."""
        thread = threading.Thread(target=self._tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _tick(self) -> None:
        while True:
            write_whole(self.file, f"{self.seconds():.1f}\n")
            if self._over.wait(2):
                break


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and wait for one that is leaving.

    Raises:
        ConfigError: when another process stays.
    """
    with (folder / "lock").open("w") as file:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"{folder}: expected nobody else there, another process works on it"
                    ) from None
                time.sleep(0.2)
        yield


def _leave_with_parent(parent: int) -> None:
    """Stop this process, as a signal would, once the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.exit(main())
