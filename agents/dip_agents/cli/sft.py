"""``dip sft``: fine-tune a model on demonstrations of the oracle."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dip_agents.cli.arguments import (
    HEADINGS,
    ModelDefaults,
    SceneArgs,
    TrainedModelArgs,
    check_at_least,
)
from dip_agents.cli.options import Option
from dip_agents.cli.resume import (
    checkpoint_to_go_on_from,
    is_resumed,
    refuse_other_run,
    saved_settings,
)
from dip_agents.cli.run_folder import recorded, repeated, try_folder
from dip_agents.cli.settings import Resolved
from dip_agents.sft.config import SFTConfig
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_agents.runtime.distributed import DistributedContext
    from dip_env.scenes.base import SceneSource

TINY_SFT = SFTConfig(
    steps=2300,
    optimizer="muon",
    learning_rate=3e-3,
    warmup_steps=50,
    decay_steps=250,
    coordinate_sigma=1.0,
    final_sigma=0.4,
    dense_weight=1.0,
    p_no_look=0.1,
    p_given_look=0.3,
    p_blurred_overview=0.4,
    magnifications=(4.0, 3.0, 4.0, 2.0, 4.0),
    look="random_tiles",
    min_visible_height=8.0,
    checkpoint_interval=50,
)
"""Training a tiny model, which learns to read crops and to look, but not where to look."""
EXAMPLES = (
    "dip sft --scenes easy --store runs/scenes",
    "dip sft --mix crowd=3 easy=1 --stop-at 250",
    "dip sft --model Qwen/Qwen2.5-VL-3B-Instruct --lora-rank 16 \\\n"
    "    --scenes crowdhuman --root data/CrowdHuman",
)
CHANGEABLE = frozenset(
    {"mix", "n", "views", "smallest_window", "store", "workers", "rank_timeout", "device"}
    | {"steps", "decay_steps", "final_sigma"}  # until the rate falls, as the trainer checks
)
"""What a resumed run may set anew: other demonstrations, and how the run ends."""


@dataclass(frozen=True)
class Settings:
    """Fine-tune a model on demonstrations of the oracle; the tiny recipe takes hours on a CPU."""

    source: SceneArgs = field(default_factory=SceneArgs)
    policy: TrainedModelArgs = field(
        default_factory=lambda: TrainedModelArgs(model="tiny-untrained")
    )
    rules: EpisodeConfig = field(default_factory=EpisodeConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    n: int = 10000
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
    """Go on from the newest checkpoint in the folder, under the settings of that run."""
    resume_from: str | None = None
    """Go on from another checkpoint of the folder than the newest: its step, or its folder."""
    stop_at: int | None = None
    """Step to end at before the last one, to go on from with --resume and another mix."""
    rank_timeout: float = 1800.0
    """Seconds that one of several processes waits for the others before it ends the run."""

    HEADINGS: ClassVar = {**HEADINGS, SFTConfig: "Optimization and demonstrations"}
    USUAL = (
        *("model", "scenes", "root", "mix", "n", "store", "out", "resume", "stop_at", "seed"),
        *("steps", "batch_size", "learning_rate", "optimizer", "lora_rank", "workers"),
    )

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings that fit the model."""
        model = ModelDefaults.of(given, "tiny-untrained")
        return cls(
            policy=model.args(TrainedModelArgs),
            rules=model.rules,
            sft=TINY_SFT if model.small else SFTConfig(learning_rate=1e-5),
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
        if not is_resumed(given):
            return repeated(file, given, out)
        return {**saved_settings(out, "sft", options, given, CHANGEABLE), **file}

    def __post_init__(self) -> None:
        """Check at once what needs no model and no scene.

        Raises:
            ConfigError: for a number of scenes or a mix that cannot be.
        """
        check_at_least(self, n=1, views=1)
        if not 0 < self.smallest_window <= 1:
            raise ConfigError(
                f"smallest_window: expected a share in (0, 1], got {self.smallest_window}"
            )
        for part in self.mix:
            read_part(part)


def run(resolved: Resolved[Settings]) -> int:
    """Fine-tune with all processes that a launcher started.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from dip_agents.cli.output import make_console, say_libraries_load

    say_libraries_load(make_console())
    from transformers.utils.logging import disable_progress_bar

    from dip_agents.runtime.distributed import DistributedContext

    disable_progress_bar()  # the loading of weights is no news
    args = resolved.settings
    with DistributedContext.launched(args.rank_timeout, args.policy.device) as distributed:
        console = make_console() if distributed.is_main else Console(quiet=True)
        if distributed.is_main:
            try_folder(args.out)
        resume: Path | bool = False
        if is_resumed(vars(args)):
            resume = checkpoint_to_go_on_from(args.out, args.sft.steps, args.resume_from, console)
        else:
            refuse_other_run(args.out)
        with recorded(args.out, "sft", resolved, write=distributed.is_main) as record:
            record.device = _fine_tune(args, resume, distributed, console)
    return 0


def _fine_tune(
    args: Settings, resume: Path | bool, distributed: DistributedContext, console: Any
) -> str:
    """Fine-tune, and return the device that did it."""
    from dip_agents.cli.output import say
    from dip_agents.models.loading import load_model
    from dip_agents.sft.run import train_sft
    from dip_env.scenes import MixedScenes

    parts: list[tuple[str | None, float]] = [read_part(text) for text in args.mix]
    parts = parts or [(None, 1.0)]
    views = [(_views(args, name), weight) for name, weight in parts]
    demonstrations = views[0][0] if len(views) == 1 else MixedScenes(views)
    say(console, f"loading {args.policy.model} ...")
    loaded = load_model(
        args.policy.model,
        device=args.policy.device,
        dtype=args.policy.dtype,
        lora_rank=args.policy.lora_rank,
        freeze_vision=args.policy.freeze_vision,
        seed=args.sft.seed,
    )
    train_sft(
        loaded,
        demonstrations,
        args.rules,
        args.sft,
        len(demonstrations),
        args.out,
        resume=resume,
        stop_at=args.stop_at,
        console=console,
        distributed=distributed,
    )
    model = args.out / "model"
    measure = shlex.join(["dip", "evaluate", "--model", str(model), "--scenes", "easy"])
    say(console, f"model: {model}", f"measure it: {measure}")
    return str(loaded.vlm.device)


def read_part(text: str) -> tuple[str, float]:
    """Read one ``name=weight`` of a mix.

    Args:
        text: the weight may be left out.

    Returns:
        The name of a preset and its weight, 1 by default.

    Raises:
        ConfigError: for a weight that is no finite number above 0.
    """
    name, equals, weight = text.partition("=")
    try:
        share = float(weight) if equals else 1.0
    except ValueError as error:
        raise ConfigError(f"mix: expected name=weight, got {text!r}") from error
    if not 0 < share < math.inf:
        raise ConfigError(f"mix: expected a finite weight above 0, got {text!r}")
    return name, share


def _views(args: Settings, name: str | None) -> SceneSource:
    """Return the views of one part of a mix, all but whose name is as the source has it."""
    from dip_env.scenes.transforms.augmented import AugmentedScenes
    from dip_env.scenes.transforms.stored import StoredScenes

    part = args.source if name is None else replace(args.source, scenes=name)
    source = part.open("train")
    if args.store is not None:
        try_folder(args.store, "store")
        source = StoredScenes(source, args.store / part.scenes if args.mix else args.store)
    return AugmentedScenes(source, args.n, args.views, args.smallest_window)
