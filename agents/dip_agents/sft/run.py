"""A whole run of supervised fine-tuning from its parts; it writes a folder with model and logs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dip_agents.models.loading import LoadedModel, save_model
from dip_agents.models.weights import fingerprint
from dip_agents.policies.oracle import OracleConfig
from dip_agents.policies.oracle_looks import LOOK_STRATEGIES
from dip_agents.runtime.checkpoints import latest_checkpoint
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import RunLogger
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.demonstrations import DemonstrationDataset, DemonstrationShares
from dip_agents.sft.trainer import SFTTrainer
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import SceneSource

PRINT_INTERVAL = 5


def train_sft(
    loaded: LoadedModel,
    source: SceneSource,
    rules: EpisodeConfig,
    config: SFTConfig,
    demonstrations: int,
    out: Path,
    *,
    resume: bool | Path = False,
    stop_at: int | None = None,
    console: Console | None = None,
    distributed: DistributedContext | None = None,
) -> None:
    """Fine-tune a model on oracle demonstrations and save it under ``out/model``.

    Args:
        loaded: the model.
        source: training scenes.
        rules: of the episodes.
        config: of the fine-tuning.
        demonstrations: number of different demonstrations; each epoch uses all of them.
        out: folder of the run.
        resume: go on from the newest checkpoint in ``out``, if there is one, or from the one in a
            folder.
        stop_at: see ``SFTTrainer.train``; the model is saved as it is then.
        console: where to print.
        distributed: the processes of the run, each with the same model; by default this one alone.

    Raises:
        ConfigError: for settings that do not fit the model or the checkpoint.
        NonFiniteUpdateError: when a gradient is not finite.
    """
    distributed = distributed or DistributedContext()
    vlm = loaded.vlm
    if distributed.world_size > 1:  # a pass over the whole model
        distributed.check_same("weights", fingerprint(vlm.model.state_dict()))
    demonstrator = OracleConfig(
        look=LOOK_STRATEGIES[config.look], min_visible_height=config.min_visible_height
    )
    data = DemonstrationDataset(
        source,
        demonstrations,
        rules,
        demonstrator,
        vlm.chat,
        config.seed,
        DemonstrationShares(
            config.p_no_look,
            config.p_given_look,
            config.p_blurred_overview,
            config.magnifications,
        ),
    )
    checkpoints = out / "checkpoints"
    with RunLogger(out, config.steps, print_interval=PRINT_INTERVAL, console=console) as logger:
        trainer = SFTTrainer(
            vlm, data, config, logger=logger, checkpoints=checkpoints, distributed=distributed
        )
        start = latest_checkpoint(checkpoints) if resume is True else resume
        if start:
            trainer.resume(start)
        trainer.train(stop_at)
    if distributed.is_main:
        save_model(vlm, out / "model", rules)
