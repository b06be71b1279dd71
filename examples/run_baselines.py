"""Scores of policies without a model: random, a fixed scan, and oracles of known quality.

    python examples/run_baselines.py --scenes crowd --n 64

The oracle answers from the ground truth with a chosen share of mistakes, so its rows are a ruler: a
trained policy whose F1 lies between two of them should earn a reward between theirs. The faultless
oracle earns no look term: its rollouts agree about everybody, so nothing was ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from dip_agents import GridScanPolicy, OracleConfig, OraclePolicy, Policy, RandomPolicy, evaluate
from dip_agents.evaluation import format_interval
from dip_agents.policies import NoLook
from dip_env import EpisodeConfig, make_source


@dataclass(frozen=True)
class Settings:
    """What to play."""

    scenes: str = "easy"
    """A preset (easy, far, crowd, night, drone, dense), or toy."""
    n: int = 32
    """Scenes."""
    group_size: int = 4
    """Rollouts of each scene; from 3 on the look term reads the siblings."""
    misses: tuple[float, ...] = (0.0, 0.2, 0.5)
    """Share of people that each oracle leaves out; it invents half as many."""
    jitter: float = 0.05
    """How far an erring oracle's edges are off, as a share of the box's side."""
    columns: tuple[str, ...] = ("F1", "reward", "format", "look", "accuracy", "looks_per_episode")
    """Metrics to print."""
    rules: EpisodeConfig = field(default_factory=EpisodeConfig)
    """Rules and rewards of the episodes."""
    seed: int = 0
    """Of the policies."""


def main(settings: Settings) -> None:
    # Procedural scenes are drawn on each access; a list of them is a source that is drawn once.
    source = make_source(settings.scenes, split="val")
    scenes = [source[index] for index in range(min(settings.n, len(source)))]

    policies: dict[str, Policy] = {
        "random": RandomPolicy(settings.rules),
        "grid": GridScanPolicy(settings.rules),
    }
    for miss_rate in settings.misses:
        policies[f"oracle, misses {miss_rate:.0%}"] = OraclePolicy(
            scenes,
            settings.rules,
            OracleConfig(
                miss_rate=miss_rate,
                false_positive_rate=miss_rate / 2,
                jitter=settings.jitter if miss_rate else 0.0,
            ),
        )
    policies["oracle, never looks"] = OraclePolicy(
        scenes, settings.rules, OracleConfig(look=NoLook())
    )

    print(f"{len(scenes)} scenes of {settings.scenes}, {settings.group_size} rollouts each;")
    print("mean [95 % interval over scenes]\n")
    print(f"{'policy':22}" + "".join(f"{name:23}" for name in settings.columns))
    for name, policy in policies.items():
        result = evaluate(
            policy,
            scenes,
            range(len(scenes)),
            settings.rules,
            group_size=settings.group_size,
            seed=settings.seed,
        )
        cells = (format_interval(result.metrics[column]) for column in settings.columns)
        print(f"{name:22}" + "".join(f"{cell:23}" for cell in cells))


if __name__ == "__main__":
    main(tyro.cli(Settings))
