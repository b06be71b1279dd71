"""A stable-baselines3 agent learns where to look; a simulated detector answers.

    pip install "dip-env[sb3]"
    python examples/train_sb3.py                     # PPO, seeds 0 to 2, some minutes on two cores

The overview has a small part of the scene's pixels, so that most people are too small for the
detector there, and three looks must do. PPO is compared with random looks, with a scan of fixed
cells, with a rule by hand and with looks that know the ground truth: as many looks, the same
held-out scenes.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium as gym
import torch
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv

import dip_env  # noqa: F401 (registers DIPCrowd-v0)
from dip_agents.evaluation import format_interval
from dip_agents.glimpse import (
    Agent,
    CellPolicy,
    GridScan,
    MostDetections,
    OracleLooks,
    RandomLooks,
    detection_scores,
    match_counts,
)
from dip_env import SceneSource, make_source
from dip_env.scenes import SlicedScenes, StoredScenes
from dip_wrappers.glimpse import Glimpse, GridLooks, SimulatedDetector

LEVELS = (3, 5)
"""Cells along each side of the two grids to look at."""


@dataclass(frozen=True)
class Settings:
    """What is learned, and how long."""

    out: Path = Path("runs/sb3")
    """Folder of the models, the curves and the drawn scenes."""
    scenes: str = "drone"
    """Preset of the scenes."""
    n: int = 256
    """Held-out scenes of the table."""
    curve_n: int = 64
    """Further held-out scenes, played while PPO learns."""
    train_scenes: int = 600
    """Scenes to learn from."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each learns anew."""
    steps: int = 6_144
    """Looks that each seed takes."""
    envs: int = 4
    """Environments side by side, each in a process of its own."""
    shaping: float = 1.0
    """Immediate reward of a look per gain in accuracy; 0 rewards the end of an episode only."""
    discount: float = 0.9
    """Of PPO, and of the shaping."""


class Curve(BaseCallback):
    """Keep F1 on held-out scenes while PPO learns.

    Args:
        env: held-out scenes.
        scenes: which of them.
        interval: looks between two measurements.
    """

    def __init__(self, env: Glimpse, scenes: range, interval: int) -> None:
        """Begin an empty curve."""
        super().__init__()
        self.env, self.scenes, self.interval = env, scenes, interval
        self.rows: list[tuple[int, float]] = []

    def measure(self) -> None:
        """Add a point."""
        self.rows.append((self.num_timesteps, f1_of(self.model, self.env, self.scenes)))

    def _on_rollout_start(self) -> None:
        if not self.rows or self.num_timesteps - self.rows[-1][0] >= self.interval:
            self.measure()

    def _on_training_end(self) -> None:
        self.measure()

    def _on_step(self) -> bool:
        return True


def make_env(source: SceneSource, shaping: float, discount: float) -> Glimpse:
    env = gym.make(
        "DIPCrowd-v0", scenes=source, view_size=192, crop_size=192, max_looks=3, max_turns=5,
        format_weight=0.0, look_weight=0.0, accuracy_weight=1.0, disable_env_checker=True,
    )  # fmt: skip
    return Glimpse(
        env, SimulatedDetector(), GridLooks(LEVELS), shaping=shaping, discount=discount,
        keys=("cells", "budget"),
    )  # fmt: skip


def f1_of(agent: Agent, env: Glimpse, scenes: range) -> float:
    return detection_scores(match_counts(agent, env, scenes))["F1"].value or 0.0


def row(name: str, agent: Agent, env: Glimpse, scenes: range) -> None:
    scores = detection_scores(match_counts(agent, env, scenes))
    print(f"| {name} | {' | '.join(map(format_interval, scores.values()))} |", flush=True)


def main(settings: Settings) -> None:
    torch.set_num_threads(1)  # the environments have the other cores
    began = time.perf_counter()

    def drawn(split: str) -> SceneSource:
        # Drawing a scene takes as long as thirty looks at it: keep what is drawn.
        folder = settings.out / "scenes" / settings.scenes / split
        return StoredScenes(make_source(settings.scenes, split=split), folder)

    held_out = make_env(drawn("val"), 0.0, settings.discount)
    measured = range(settings.n)
    watched = range(settings.n, settings.n + settings.curve_n)
    large = range(LEVELS[0] ** 2)
    rules: dict[str, Agent] = {
        "random": RandomLooks(held_out), "random, large cells": RandomLooks(held_out, cells=large),
        "grid scan": GridScan(held_out), "most detections": MostDetections(held_out),
        "knowing the ground truth": OracleLooks(held_out),
    }  # fmt: skip
    print("| looks | precision | recall | F1 |\n|---|---:|---:|---:|")
    for name, rule in rules.items():
        row(name, rule, held_out, measured)
    learn_from = SlicedScenes(drawn("train"), 0, settings.train_scenes)
    make = partial(make_env, learn_from, settings.shaping, settings.discount)
    curves: dict[int, list[tuple[int, float]]] = {}
    for seed in settings.seeds:
        envs = SubprocVecEnv([make] * settings.envs)
        model = PPO(
            CellPolicy, envs, n_steps=512 // settings.envs, batch_size=64, n_epochs=10,
            gamma=settings.discount, learning_rate=3e-3, ent_coef=0.01, device="cpu",
            seed=seed * settings.envs,  # environment k of a run gets seed + k: no two get the same
        )  # fmt: skip
        curve = Curve(held_out, watched, settings.steps // 6)
        model.learn(settings.steps, callback=curve)
        envs.close()
        model.save(settings.out / f"ppo_{seed}")
        curves[seed] = curve.rows
        row(f"PPO, seed {seed}", model, held_out, measured)
    levels = {name: f1_of(rule, held_out, watched) for name, rule in rules.items()}
    save_curves(curves, levels, settings.out)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes; models and curves: {settings.out}")


def save_curves(
    curves: dict[int, list[tuple[int, float]]], levels: dict[str, float], folder: Path
) -> None:
    figure = Figure((7, 3.5), layout="constrained")
    axis = figure.subplots()
    for name, f1 in levels.items():
        axis.axhline(f1, color="0.6", linewidth=1, linestyle="--")
        place = {"xycoords": ("axes fraction", "data"), "va": "center"}
        axis.annotate(name, (1.01, f1), fontsize=8, color="0.4", **place)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "looks taken", "F1"])
        for seed, rows in curves.items():
            writer.writerows([seed, steps, f"{f1:.4f}"] for steps, f1 in rows)
            axis.plot(*zip(*rows, strict=True), marker="o", markersize=3, label=f"seed {seed}")
    axis.set(xlabel="looks taken while learning", ylabel="F1, further held-out scenes")
    axis.legend(frameon=False, loc="lower center", ncols=3)
    axis.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__.splitlines()[0]))
