"""Options that several commands share; loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dip_agents.engines.config import EngineArgs
from dip_agents.models.rules import DeviceName, DtypeName, rules_of
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_env.scenes.base import SceneSource

TINY_NEW_TOKENS, TINY_BUDGET = 224, 768
"""Token limits that fit what the bundled model writes."""
SERVER_NEW_TOKENS = 2048
"""Token limit of a turn on a server, whose models may think at length."""


@dataclass(frozen=True)
class SceneArgs:
    """Where scenes come from."""

    scenes: str = "easy"
    """A procedural preset (easy, far, crowd, night, drone, dense), toy (four scenes), or a
    reader (crowdhuman, citypersons, wider_pedestrian, uavdt, coco)."""
    root: Path | None = None
    """Folder of the data, for readers."""
    scene_seed: int = 0
    """Seed of a procedural source."""
    source_arg: tuple[str, ...] = ()
    """Further arguments of the source, such as every=10 categories=car,bus people=60,90."""
    min_people: int = 0
    """Leave out scenes with fewer non-ignored people."""
    min_height: float = 0.0
    """Ignore instances that are less tall, in pixels of the source."""
    min_visible: float = 0.0
    """Ignore instances of which a smaller share is visible."""

    def open(self, split: str) -> SceneSource:
        """Open one split of the source.

        Args:
            split: train, val or test.

        Raises:
            ConfigError: for an unknown source or argument.
            SceneError: for files that are missing or malformed.
        """
        from dip_env.scenes import FilteredScenes, make_source
        from dip_env.scenes.sources import read_arguments

        texts = split_arguments(self.source_arg)
        for name in texts.keys() & {"name", "root", "split", "seed"}:
            raise ConfigError(f"source_arg: expected {name} as an option of its own")
        options = read_arguments(self.scenes, texts)
        source = make_source(self.scenes, self.root, split, self.scene_seed, **options)
        if not (self.min_people or self.min_height or self.min_visible):
            return source
        return FilteredScenes(
            source,
            min_people=self.min_people,
            min_height=self.min_height,
            min_visible=self.min_visible,
        )


def split_arguments(texts: Iterable[str]) -> dict[str, str]:
    """Split arguments of a source, each typed as ``name=value``.

    Args:
        texts: the arguments.

    Returns:
        Values by name, as text.

    Raises:
        ConfigError: where there is no name or no value, or where a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"source_arg: expected name=value, got {text!r}")
        if name in found:
            raise ConfigError(
                f"source_arg: expected {name} once, got {found[name]!r} and {value!r}"
            )
        found[name] = value
    return found


@dataclass(frozen=True)
class ModelArgs:
    """Which model, and where it runs."""

    model: str | None = "tiny"
    """tiny (bundled), tiny-untrained, a folder, or a hub name; none with --engine openai, where it
    is the default: the server's model gets the whole prompt, and no tokenizer is needed here."""
    device: DeviceName = "auto"
    """auto takes the GPU when there is one."""
    dtype: DtypeName = "auto"
    """Precision of matrix products; auto is bfloat16 where the hardware has it."""
    max_new_tokens: int = 512
    """Tokens of one turn; a box takes up to 16 where each digit is a token, and answers that are
    cut are told of."""
    token_budget: int = 2048
    """Tokens of one episode, prompt and images included."""


@dataclass(frozen=True)
class TrainedModelArgs(ModelArgs):
    """Which model is trained, where, and which of its weights."""

    model: str = "tiny"
    """tiny (bundled), tiny-untrained, a folder, or a hub name."""
    lora_rank: int = 0
    """Above 0 only a LoRA of that rank on the language part is trained."""
    freeze_vision: bool = False
    """Leave the vision tower as it is: faster, and what the model can see stays."""

    def __post_init__(self) -> None:
        """Check the rank.

        Raises:
            ConfigError: for one below 0.
        """
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank: expected at least 0, got {self.lora_rank}")


@dataclass(frozen=True)
class OracleArgs:
    """Mistakes of the oracle, to check metrics with answers of known quality."""

    miss_rate: float = 0.0
    """Probability that the oracle leaves out a person."""
    jitter: float = 0.0
    """Standard deviation of each edge of the oracle's boxes, as a share of the side."""
    false_positive_rate: float = 0.0
    """People the oracle invents, for each one of the ground truth."""
    decimals: int = 0
    """Decimal places of the numbers the oracle prints."""


@dataclass(frozen=True)
class PlayArgs:
    """Which policy acts on which held-out scenes."""

    source: SceneArgs = field(default_factory=SceneArgs)
    model: ModelArgs = field(default_factory=ModelArgs)
    rules: EpisodeConfig = field(default_factory=EpisodeConfig)
    policy: Literal["model", "random", "grid", "oracle"] = "model"
    """Which policy acts: the model, or a scripted one."""
    sampler: EngineArgs = field(default_factory=EngineArgs)
    oracle: OracleArgs = field(default_factory=OracleArgs)
    split: str = "val"
    """Part of the source to use: train, val or test."""
    temperature: float = 0.0
    """Sampling temperature of the model; 0 is greedy decoding."""
    batch_size: int = 64
    """Episodes in progress at once."""
    workers: int = 0
    """Processes that prepare scenes ahead; the results are the same with any number."""
    seed: int = 0
    """Seed of sampling and of the bootstrap."""


HEADINGS: Mapping[type, str] = {
    SceneArgs: "Scenes",
    ModelArgs: "Model",
    TrainedModelArgs: "Model",
    EpisodeConfig: "Episode rules",
    RewardConfig: "Reward",
    EngineArgs: "Sampling engine",
    OracleArgs: "Oracle",
}
"""Heading of each group of options that several commands share."""


@dataclass(frozen=True)
class ModelDefaults:
    """What a command's defaults take from the model.

    Args:
        name: of the model; None for one that is known to a server only.
        rules: the episode rules it was trained under, or the defaults of its family.
        small: it is the bundled model, or came of it: with its prompts and token limits.
    """

    name: str | None
    rules: EpisodeConfig
    small: bool

    @classmethod
    def of(cls, given: Mapping[str, Any], usual: str | None = "tiny") -> ModelDefaults:
        """Read the rules of the model that was given.

        Args:
            given: options by name.
            usual: the model where none is given; None is one on a server.

        Raises:
            ConfigError: for a model that is not there.
        """
        name = given.get("model", usual)
        if name is None:  # nothing is known of it, so it gets the prompt that says everything
            return cls(None, EpisodeConfig(), small=False)
        # A scripted policy has no model; it keeps to the rules of the bundled one by default.
        rules = rules_of("tiny" if name == usual else name)
        return cls(name, rules, rules.minimal_prompt)

    def args(self, kind: type[ModelArgs] = ModelArgs) -> Any:
        """Return the options of the model, with its token limits."""
        made = kind(model=self.name)
        if self.name is None:
            return replace(made, max_new_tokens=SERVER_NEW_TOKENS)
        if not self.small:
            return made
        return replace(made, max_new_tokens=TINY_NEW_TOKENS, token_budget=TINY_BUDGET)


def played_model(given: Mapping[str, Any]) -> ModelDefaults:
    """Return the defaults of a command that plays a model and may ask a server.

    Args:
        given: options by name.

    Raises:
        ConfigError: for a model that is not there.
    """
    served = given.get("engine") == "openai" and given.get("policy", "model") == "model"
    return ModelDefaults.of(given, None if served else "tiny")


def check_at_least(settings: object, **lowest: int) -> None:
    """Check numbers of a command's settings.

    Args:
        settings: of the command.
        **lowest: lowest value of each field.

    Raises:
        ConfigError: for the first number that is too low.
    """
    for name, low in lowest.items():
        value = getattr(settings, name)
        if value < low:
            raise ConfigError(f"{name}: expected at least {low}, got {value}")
