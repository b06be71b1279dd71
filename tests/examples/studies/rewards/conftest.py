"""Import the study's files as its scripts do, and make small runs for it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.scenes import ToyScenes


@pytest.fixture
def load() -> Callable[[str], ModuleType]:
    """Return a function that imports a file of the study by name."""
    return lambda name: importlib.import_module(f"examples.studies.rewards.{name}")


@pytest.fixture
def columns() -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that makes the numbers of scenes; by default one person, one box found."""

    def make(tp=(1,), counted=(1,), people=(1,), **others: Any) -> dict[str, np.ndarray]:
        made = {"tp": tp, "counted": counted, "people": people, **others}
        scenes = len(made["people"])
        whole = {name: np.asarray(values, dtype=np.float64) for name, values in made.items()}
        for name in ("tp", "counted"):  # one threshold where only one is given
            whole[name] = whole[name].reshape(scenes, -1)
        return {"episodes": np.ones(scenes), **whole}

    return make


def oracle_outcome(source: Any, index: int, rules: EpisodeConfig, seed: int) -> Any:
    """Return what comes of an oracle's flawed episode."""
    policy = OraclePolicy(source, rules, OracleConfig(miss_rate=0.4, jitter=0.1))
    episode = Episode(source[index], rules, index)
    while not episode.done:
        (said,) = policy.act([episode.observation()], [seed])
        episode.step(said.text)
    return episode.outcome


@pytest.fixture
def finish(load) -> Callable[..., None]:
    """Return a function that finishes a run without a model: a flawed oracle plays toy scenes."""

    def make(job: Any, out: Path, miss_rate: float = 0.3, steps: int = 0) -> None:
        folder = out / job.folder
        folder.mkdir(parents=True)
        rules = load("worker").read_rules(json.loads(json.dumps(job.setting["rules"])))
        if job.kind == "train":
            rows = [
                {"step": step, "reward/total": 0.1 * step, "train/entropy": 0.5}
                for step in range(1, steps + 1)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            source = ToyScenes()
            policy = OraclePolicy(source, rules, OracleConfig(miss_rate=miss_rate))
            indices = range(job.setting["scenes"]["count"])
            if job.kind == "noise":
                noise, size = load("measure.noise"), job.setting["group_size"]
                rows = []
                for index in indices:
                    said = [oracle_outcome(source, index, rules, k) for k in range(2 * size)]
                    parts = said[:size], said[size:]
                    rows.append(noise.scene_columns(*parts, source[index], rules))
                noise.save_noise(rows, indices, folder)
            elif job.kind == "agreement":
                samples = job.setting["samples"]
                agreement = load("measure.agreement").measure_agreement
                agreement(policy, source, indices, rules, samples, folder)
            elif job.kind == "looking":
                load("measure.looking").measure_looking(policy, source, indices, rules, folder)
            else:
                load("measure.answers").measure(policy, source, indices, rules).save(folder)
        record = {
            "seconds": 90.0, "command": "python -m examples.studies.rewards", "commit": "abc1234",
            "date": "2026-01-02", "machine": "m", "versions": {"python": "3"},
        }  # fmt: skip
        (folder / "done.json").write_text(json.dumps(record))

    return make


@pytest.fixture
def toy_study(load, tmp_path) -> Any:
    """Return the choices of a study on toy scenes, with two seeds."""
    study = load("config").Study(
        out=tmp_path / "runs", seeds=(0, 1), presets=("toy",), train_preset="toy", n=4, looking_n=2
    )
    return replace(study, steps=10)


@pytest.fixture
def start(load) -> Any:
    """Return a starting model that is never loaded."""
    return load("plan").Start(
        7,
        EpisodeConfig(view_size=128, crop_size=64, max_looks=1, max_regions=2, minimal_prompt=True),
    )
