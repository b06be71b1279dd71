"""What the commands of ``dip`` that play or train a policy can be told, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dip_agents.cli.main import Flat, SceneArgs, Scenes, Score
from dip_agents.engines.config import EngineArgs
from dip_agents.experiments.variations import ExperimentKind
from dip_agents.grpo.config import GRPOConfig
from dip_agents.models.rules import DeviceName, DtypeName, rules_of
from dip_agents.sft.config import SFTConfig
from dip_env.config import EpisodeConfig

TINY_GRPO = GRPOConfig(
    steps=30,
    learning_rate=6e-5,
    temperature=0.5,
    micro_batch_tokens=4096,
    checkpoint_interval=20,
)
"""GRPO settings of the tiny model: all weights learn, a few minutes on two CPU cores."""
UNSEEN = "night"
"""What the bundled model trains on by default: a preset it was not taught on."""
TINY_SFT = SFTConfig(
    steps=2300,
    optimizer="muon",
    learning_rate=3e-3,
    warmup_steps=50,
    decay_steps=250,
    coordinate_sigma=1.5,
    final_sigma=0.5,
    dense_weight=1.0,
    p_no_look=0.2,
    p_blurred_overview=0.35,
    look="tiles",
    min_visible_height=8.0,
    checkpoint_every=50,
)
"""Teaching a tiny model from random weights."""

Rules = Annotated[EpisodeConfig, tyro.conf.OmitArgPrefixes]


@dataclass(frozen=True)
class ModelArgs:
    """Which model, and where it runs."""

    model: str = "tiny"
    """tiny (bundled), tiny-untrained, a folder, or a hub name."""
    device: DeviceName = "auto"
    """auto takes the GPU when there is one."""
    dtype: DtypeName = "auto"
    """Of matrix products; auto is bfloat16 where the hardware has it."""
    max_new_tokens: int = 256
    """Tokens of one turn."""
    token_budget: int = 2048
    """Tokens of one episode, prompt and images included."""


@dataclass(frozen=True)
class Train:
    """Improve a policy by GRPO and measure the gain on held-out scenes."""

    source: Annotated[SceneArgs, Flat] = field(default_factory=SceneArgs)
    policy: Annotated[ModelArgs, Flat] = field(default_factory=ModelArgs)
    rules: Annotated[EpisodeConfig, Flat] = field(default_factory=EpisodeConfig)
    grpo: Annotated[GRPOConfig, Flat] = field(default_factory=GRPOConfig)
    sampler: Annotated[EngineArgs, Flat] = field(default_factory=EngineArgs)
    lora_rank: int = 0
    """Above 0 only a LoRA of that rank on the language part learns."""
    gradient_checkpointing: bool = False
    """Keep less for the backward pass: a third slower, much less memory."""
    workers: int = 0
    """Processes that prepare the scenes of coming steps; the run is the same with any number."""
    demonstrations: int = 16000
    """Oracle demonstrations an untrained model is taught before GRPO."""
    eval_scenes: int = 256
    """Held-out scenes for the measurement before and after; 0 for none."""
    eval_split: str = "val"
    """Part of the source they are from; uavdt has a test part instead."""
    eval_temperature: float = 0.0
    """Of that measurement; 0 takes the most likely words, as dip evaluate does."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    rank_timeout: float = 1800.0
    """Seconds that one of several processes waits for the others before it ends the run."""


@dataclass(frozen=True)
class Sft:
    """Teach a model from oracle demonstrations."""

    source: Annotated[SceneArgs, Flat] = field(default_factory=SceneArgs)
    policy: Annotated[ModelArgs, Flat] = field(
        default_factory=lambda: ModelArgs(model="tiny-untrained")
    )
    rules: Annotated[EpisodeConfig, Flat] = field(default_factory=EpisodeConfig)
    sft: Annotated[SFTConfig, Flat] = field(default_factory=SFTConfig)
    lora_rank: int = 0
    """Above 0 only a LoRA of that rank on the language part learns."""
    scene_count: int = 10000
    """Different scenes, of each part of a mix."""
    views: int = 6
    """Views of each scene: itself, and mirrored windows of it."""
    smallest_window: float = 0.65
    """Shortest side of such a window, as a share of the image's."""
    mix: tuple[str, ...] = ()
    """Several presets by weight instead of one source, such as easy=1 crowd=3."""
    store: Path | None = None
    """Folder that keeps drawn scenes; without it every epoch draws them again."""
    out: Path = Path("runs/sft")
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    stop_at: int | None = None
    """Step to end at before the last one, to go on from with --resume and another mix."""
    rank_timeout: float = 1800.0
    """Seconds that one of several processes waits for the others before it ends the run."""


@dataclass(frozen=True)
class OracleArgs:
    """Mistakes of the oracle, to check metrics with answers of known quality."""

    miss_rate: float = 0.0
    """Chance of each person to be left out by the oracle."""
    jitter: float = 0.0
    """Standard deviation of each edge of the oracle's boxes, as a share of the side."""
    false_positive_rate: float = 0.0
    """People the oracle invents, for each true one."""
    decimals: int = 0
    """Digits after the point of the numbers the oracle prints."""


@dataclass(frozen=True)
class PlayArgs:
    """Who plays which held-out scenes."""

    source: Annotated[SceneArgs, Flat] = field(default_factory=SceneArgs)
    model: Annotated[ModelArgs, Flat] = field(default_factory=ModelArgs)
    rules: Annotated[EpisodeConfig, Flat] = field(default_factory=EpisodeConfig)
    policy: Literal["model", "random", "grid", "oracle"] = "model"
    """Who plays: the model, or a scripted policy."""
    sampler: Annotated[EngineArgs, Flat] = field(default_factory=EngineArgs)
    oracle: OracleArgs = field(default_factory=OracleArgs)
    """How well the oracle answers."""
    split: str = "val"
    """Which part of the source."""
    temperature: float = 0.0
    """Of the model; 0 is greedy."""
    batch_size: int = 64
    """Episodes played together."""
    workers: int = 0
    """Processes that prepare scenes ahead; the results are the same with any number."""
    seed: int = 0
    """Of sampling and of the bootstrap."""


@dataclass(frozen=True)
class Evaluate(PlayArgs):
    """Play a policy on held-out scenes and write metrics, detections and traces."""

    n: int = 256
    """Scenes, from the first on; at most those there are."""
    group_size: int = 1
    """Rollouts of each scene; from 3 on the look term reads the siblings, unless --ambiguity says
    annotation."""
    out: Path | None = None
    """Folder for metrics.json, detections.json, truth.json and traces."""


@dataclass(frozen=True)
class Experiment(PlayArgs):
    """Change one thing about looking step by step, and write a table and a plot."""

    kind: tyro.conf.Positional[ExperimentKind] = "look-budget"
    """look-budget: fewer looks, fewer and smaller regions. controls: random looks, blank crops and
    the like. coordinates: what printed numbers mean. resolution: how much the overview shows."""
    n: int = 64
    """Scenes, from the first on; at most those there are."""
    view_sizes: tuple[int, ...] = ()
    """Longest sides of the overview for resolution, for models that take any; without them it stays
    as large as it is and loses details."""
    tiles: bool = False
    """Let the oracle of controls look at tiles, as the bundled model was taught to."""
    out: Path | None = None
    """Folder for experiment.json, experiment.md and experiment.png; runs/experiment/KIND by
    default."""


@dataclass(frozen=True)
class Audit:
    """Play adversaries against a reward; exits with 1 when one of them wins."""

    source: Annotated[SceneArgs, Flat] = field(default_factory=lambda: SceneArgs(scenes="crowd"))
    rules: Annotated[EpisodeConfig, Flat] = field(default_factory=EpisodeConfig)
    n: int = 16
    """Scenes."""
    seed: int = 0
    """Of the adversaries."""


Command = Train | Sft | Evaluate | Experiment | Audit | Scenes | Score


def parse(arguments: Sequence[str]) -> Command:
    """Read arguments; defaults that depend on the model are those of the model named there.

    Args:
        arguments: without the program's name.

    Returns:
        The command with its settings.
    """
    name = _named(arguments, "--model")
    rules = rules_of(name) if name else None
    taught = rules or rules_of("tiny")
    # What came of the tiny model has its rules, wherever it lies.
    tiny = taught.minimal_prompt
    small = ModelArgs(model=name or "tiny")
    if tiny:
        small = replace(small, max_new_tokens=224, token_budget=768)
    commands: dict[str, Any] = {
        "train": Train(
            source=SceneArgs(scenes=UNSEEN) if small.model == "tiny" else SceneArgs(),
            policy=small,
            rules=taught,
            grpo=TINY_GRPO if tiny else GRPOConfig(),
        ),
        "sft": Sft(
            policy=replace(small, model=name or "tiny-untrained"),
            rules=taught,
            sft=TINY_SFT if tiny else SFTConfig(learning_rate=1e-5),
        ),
        "evaluate": Evaluate(model=small, rules=taught),
        "experiment": Experiment(
            source=SceneArgs(scenes="crowd"), model=small, rules=taught, tiles=tiny
        ),
        "audit": Audit(),
        "scenes": Scenes,
        "score": Score,
    }
    found: Command = tyro.extras.subcommand_cli_from_dict(
        {
            key: value if isinstance(value, type) else _returning(value)
            for key, value in commands.items()
        },
        prog="dip",
        description="Teach multimodal models to look before they answer in crowded scenes.",
        args=list(arguments),
    )
    return found


def _returning(default: Any) -> Callable[..., Any]:
    """Wrap a default instance as the function tyro wants per subcommand."""
    kind = type(default)

    def build(settings: Any) -> Any:
        return settings

    build.__doc__ = kind.__doc__
    build.__annotations__ = {
        "settings": Annotated[kind, tyro.conf.OmitArgPrefixes],
        "return": kind,
    }
    build.__defaults__ = (default,)
    return build


def _named(arguments: Sequence[str], flag: str) -> str | None:
    for at, argument in enumerate(arguments):
        if argument == flag and at + 1 < len(arguments):
            return arguments[at + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
