"""The settings of ``dip train``, with the defaults that fit each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from dip_agents.cli.arguments import (
    HEADINGS,
    ModelDefaults,
    SceneArgs,
    TrainedModelArgs,
    check_at_least,
)
from dip_agents.cli.options import Option
from dip_agents.cli.resume import is_resumed, saved_settings
from dip_agents.cli.run_folder import repeated
from dip_agents.engines.config import EngineArgs
from dip_agents.grpo.config import GRPOConfig
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError

TINY_GRPO = GRPOConfig(
    steps=60,
    learning_rate=1e-4,
    warmup_steps=5,
    temperature=0.5,
    look_credit="regions",
    region_weight=6.0,
    kl_weight=0.3,
    checkpoint_interval=20,
)
"""GRPO settings of the tiny model, some ten minutes on two CPU cores. Regions learn fast where to
look; the KL to the reference keeps what the model can read, and the form of its answers."""
LOOKS_DECIDE = "far"
"""What the bundled model trains on by default: it can read crops there, and looks anywhere."""
CHANGEABLE = frozenset(
    {"n", "eval_split", "eval_temperature", "eval_interval", "workers", "rank_timeout", "device"}
    | {"gradient_checkpointing", "demonstrations"}
)
"""What a resumed run may set anew, beside ``GRPOConfig.changeable``: none of it moves learning."""


@dataclass(frozen=True)
class Settings:
    """Improve a model by GRPO and measure the gain on held-out scenes."""

    source: SceneArgs = field(default_factory=SceneArgs)
    policy: TrainedModelArgs = field(default_factory=TrainedModelArgs)
    rules: EpisodeConfig = field(default_factory=EpisodeConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    sampler: EngineArgs = field(default_factory=EngineArgs)
    gradient_checkpointing: bool = False
    """Keep less for the backward pass: a third slower, much less memory."""
    workers: int = 0
    """Processes that prepare the scenes of coming steps; the run is the same with any number."""
    demonstrations: int = 16000
    """Oracle demonstrations an untrained model is fine-tuned on before GRPO."""
    n: int = 256
    """Held-out scenes measured before and after; 0 for none."""
    eval_split: str = "val"
    """Part of the source they are from; uavdt has a test part instead."""
    eval_temperature: float = 0.0
    """Sampling temperature of that measurement; 0 is greedy decoding, as in dip evaluate."""
    seeds: tuple[int, ...] = ()
    """Several runs, one for each seed, in OUT/seed_0 and so on, and a table of all."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder, under the settings of that run."""
    resume_from: str | None = None
    """Go on from another checkpoint of the folder than the newest: its step, or its folder."""
    rank_timeout: float = 1800.0
    """Seconds that one of several processes waits for the others before it ends the run."""
    verbose: bool = False
    """Print every metric at the end."""
    json: bool = False
    """Print one JSON object on standard output; progress goes to standard error."""

    HEADINGS: ClassVar = {**HEADINGS, GRPOConfig: "Optimization"}
    RENAMED: ClassVar = {("grpo", "temperature"): "sampling_temperature"}
    USUAL = (
        *("model", "scenes", "root", "out", "resume", "seed", "seeds", "steps", "n", "lora_rank"),
        *("learning_rate", "scenes_per_step", "group_size", "loss", "max_looks", "look_weight"),
    )

    @property
    def resumes(self) -> bool:
        """Whether a run is to go on."""
        return is_resumed(vars(self))

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings that fit the model."""
        model = ModelDefaults.of(given)
        return cls(
            source=SceneArgs(scenes=LOOKS_DECIDE) if model.name == "tiny" else SceneArgs(),
            # Where to look is learned by the language part; what it can read, it keeps.
            policy=replace(
                model.args(TrainedModelArgs),
                freeze_vision=model.small and model.name != "tiny-untrained",
            ),
            rules=model.rules,
            grpo=TINY_GRPO if model.small else GRPOConfig(),
        )

    @classmethod
    def earlier(
        cls, options: Sequence[Option], typed: Mapping[str, Any], file: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the settings of a file, or of the run that goes on; a repeated run gets a folder.

        Raises:
            ConfigError: where a resumed run would go on under other settings.
        """
        given = {**file, **typed}
        out = Path(given.get("out", cls.out))
        if is_resumed(given):
            return {**saved_runs(out, options, given), **file}
        return repeated(file, given, out)

    def __post_init__(self) -> None:
        """Check at once what needs no model and no scene.

        Raises:
            ConfigError: for settings that do not go together.
        """
        check_at_least(self, n=0, workers=0, demonstrations=0, eval_temperature=0)
        if self.sampler.engine == "openai":
            raise ConfigError(
                "engine: expected native or vllm, whose weights can learn, got openai"
            )
        if self.n:
            self.sampler.check_measuring("n above 0")
        elif self.grpo.eval_interval:
            raise ConfigError(
                f"eval_interval: expected 0 with n 0, got {self.grpo.eval_interval}, and nothing "
                "to measure on"
            )
        if self.grpo.answers_per_look > 1:  # plays twice between two weight syncs
            self.sampler.check_measuring("answers_per_look above 1")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: expected different numbers, got {self.seeds}")


def saved_run(out: Path, options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the run that goes on.

    Args:
        out: folder of the run.
        options: of the command.
        given: what is set now, by name.

    Returns:
        The saved values by name; none where no run has been begun there.

    Raises:
        ConfigError: where a setting that moves learning differs; names each.
    """
    saved = saved_settings(out, "train", options, given, CHANGEABLE | GRPOConfig().changeable)
    if saved.get("lr_schedule") == "cosine":  # looks ahead to the last step
        cosine = GRPOConfig(lr_schedule="cosine").changeable
        saved_settings(out, "train", options, given, CHANGEABLE | cosine)
    return saved


def saved_runs(out: Path, options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the run that goes on, or those that the runs of all seeds share.

    Args:
        out: folder of the run, or of the runs.
        options: of the command.
        given: what is set now, by name.

    Returns:
        The saved values by name; a seed that has not begun takes those of the others.

    Raises:
        ConfigError: where a setting that moves learning differs; names each.
    """
    if not given.get("seeds"):
        return saved_run(out, options, given)
    shared: dict[str, Any] = {}
    for seed in given["seeds"]:
        here = {**shared, **given, "seed": seed}
        shared = {**saved_run(seed_folder(out, seed), options, here), **shared}
        shared.pop("seed", None)
    return shared


def seed_folder(out: Path, seed: int) -> Path:
    """Return the folder of one of several runs.

    Args:
        out: folder of all.
        seed: of the run.
    """
    return out / f"seed_{seed}"
