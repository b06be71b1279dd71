"""The choices of a study; the defaults take two CPU cores some hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dip_agents.cli.train_settings import TINY_GRPO
from dip_env.errors import ConfigError
from examples.studies.rewards.variants import (
    BASE,
    CHOICE,
    CORE,
    GRPO,
    NO_LOOK_REWARD,
    SFT_LONGER,
    Variant,
)

Part = Literal["core", "rewards", "domains", "looking", "agreement"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Study:
    """Which runs, and how long."""

    out: Path = Path("runs/study")
    """Folder of all runs; finished ones are never repeated."""
    model: str = "tiny"
    """Where every variant starts: tiny (bundled), a folder, or a hub name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is trained once with each."""
    only: str = ",".join(PARTS)
    """Parts of the study, with commas between."""
    variants: str = ",".join(variant.name for variant in CORE)
    """Variants of the core and domains parts, with commas between."""
    name: str = ""
    """Of the report: RESULTS_<name>.md with its pictures in figures_<name>; RESULTS.md without."""
    jobs: int = 2
    """Runs side by side, each a process of its own."""
    threads: int = 1
    """CPU threads of each."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when there is one."""
    report: bool = False
    """Run nothing: report on what is finished."""
    write: bool = False
    """Write the report beside this script instead of into the folder of the runs."""
    quick: bool = False
    """The main comparison alone, with one seed: base, sft_random_looks, grpo_no_look_reward and
    grpo; exits with 1 where grpo is not ahead of all."""
    gpu: bool = False
    """The core rows with a larger model on a GPU; see the end of the report."""
    photos: Path | None = None
    """Folder of photographs with a COCO json, measured as a curiosity."""
    steps: int = TINY_GRPO.steps
    """Updates of every variant that learns."""
    scenes_per_step: int = TINY_GRPO.scenes_per_step
    """Scenes played in a step of GRPO."""
    group_size: int = TINY_GRPO.group_size
    """Rollouts of each; a variant that is fine-tuned sees as many demonstrations per update."""
    learning_rate: float = TINY_GRPO.learning_rate
    """Of GRPO."""
    temperature: float = TINY_GRPO.temperature
    """Of its sampling. At 1 the tiny model spreads every coordinate so widely that what is learned
    is to spread it less, which greedy decoding, as in the measurements, does not show."""
    freeze_vision: bool = True
    """Whether no variant changes what the starting model can see, as in dip train."""
    sft_learning_rate: float = 3e-5
    """Peak of the variants that are fine-tuned further; high ones forget."""
    sft_sigma: float = 0.5
    """Width of smoothed coordinates in their loss, as at the end of the tiny model's fine-tuning; 0
    for models without tokens for integers."""
    kl_weight: float = TINY_GRPO.kl_weight
    """Of the KL to the starting model; above 0 the distance from it is logged."""
    train_preset: str = "far"
    """Scenes that are learned from."""
    presets: tuple[str, ...] = ("far", "crowd", "night", "drone", "dense")
    """Scenes of the measurement; the first is in-domain."""
    n: int = 128
    """Held-out scenes of each."""
    looking_n: int = 64
    """Held-out scenes of the parts on looking and on agreement."""
    samples: int = 8
    """Sampled answers of each of those scenes, in the part on agreement."""
    watch_n: int = 32
    """Further held-out scenes, measured while GRPO learns; 0 for none."""
    watch_interval: int = 10
    """Steps between those measurements."""
    max_new_tokens: int = 256
    """Tokens of one turn while learning."""
    token_budget: int = 1024
    """Tokens of one episode while learning."""
    measured_new_tokens: int = 768
    """Tokens of one turn in measurements, enough for a dense crowd."""
    measured_token_budget: int = 1536
    """Tokens of one episode in measurements."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        lowest = {
            "jobs": 1, "threads": 1, "steps": 1, "scenes_per_step": 1, "group_size": 2, "n": 2,
            "looking_n": 2, "samples": 2, "watch_n": 0, "watch_interval": 1, "max_new_tokens": 1,
            "token_budget": 1, "measured_new_tokens": 1, "measured_token_budget": 1,
        }  # fmt: skip
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        shared = [
            variant for variant in self.core if variant.learning.get("answers_per_look", 1) > 1
        ]
        if shared and (self.group_size < 6 or self.group_size % 2):
            raise ConfigError(
                f"group_size: expected an even number from 6 on with {shared[0].name}, which has "
                f"two answers to each look, got {self.group_size}"
            )
        for name in ("seeds", "presets"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name}: expected different values, at least one, got {values}")
        for name, choice in (("only", PARTS), ("variants", tuple(CHOICE))):
            unknown = [word for word in getattr(self, name).split(",") if word not in choice]
            if unknown:
                raise ConfigError(
                    f"{name}: expected some of {','.join(choice)}, got {unknown[0]!r}"
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that were asked for, in the order of the report."""
        asked = self.only.split(",")
        return tuple(part for part in PARTS if part in asked)

    @property
    def core(self) -> tuple[Variant, ...]:
        """The variants of the main table."""
        asked = self.variants.split(",")
        return tuple(variant for name, variant in CHOICE.items() if name in asked)

    @property
    def episodes(self) -> int:
        """Demonstrations or rollouts that each update learns from."""
        return self.scenes_per_step * self.group_size


def defaults(arguments: Sequence[str]) -> Study:
    """Return the defaults that a command line starts from.

    Args:
        arguments: of the command line; ``--quick`` and ``--gpu`` bring defaults of their
            own.

    Returns:
        The settings before the other arguments.
    """
    study = Study()
    if "--gpu" in arguments:
        study = replace(
            study,
            name="gpu",
            out=Path("runs/study_gpu"),
            model="runs/small/model",
            only="core,domains",
            device="cuda",
            jobs=4,
            steps=200,
            scenes_per_step=16,
            learning_rate=2e-5,
            sft_learning_rate=1e-5,
            n=256,
        )
    if "--quick" in arguments:
        study = replace(
            study,
            name="quick",
            variants=",".join(v.name for v in (BASE, SFT_LONGER, NO_LOOK_REWARD, GRPO)),
            seeds=(0,),
            only="core",
            presets=("far",),
            n=128,
            watch_n=0,
        )
    return study
