"""A whole GRPO run from its parts; it writes a folder with model, logs and traces."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from dip_agents.engines.base import Engine, Sampling, new_version
from dip_agents.engines.choose import engine_for
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.records import RolloutGroup
from dip_agents.grpo.reward_schedule import check_schedule, rules_at
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.fsdp import ShardedVLM
from dip_agents.models.loading import LoadedModel, save_model
from dip_agents.models.weights import copy_weights, fingerprint
from dip_agents.runtime.checkpoints import latest_checkpoint
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import RunLogger
from dip_agents.runtime.seeds import derived_seed
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes.base import SceneSource
from dip_env.scenes.transforms.prefetched import PrefetchedScenes
from dip_wrappers.traces import TraceWriter, describe_source

OTHER_ENGINE_CAP = 2.0
"""Cap of the importance weights where another engine than the trainer's model samples."""
LARGE_SOURCE = 1_000_000
"""Number of scenes above which a run takes them in sequence: a permutation would be too large."""


@dataclass(frozen=True)
class RolloutLimits:
    """How long a rollout may be.

    Args:
        max_new_tokens: tokens of one turn.
        token_budget: tokens of one episode, images included.
    """

    max_new_tokens: int = 256
    token_budget: int = 2048


def train_grpo(
    loaded: LoadedModel,
    source: SceneSource,
    rules: EpisodeConfig,
    config: GRPOConfig,
    out: Path,
    *,
    engine: Engine | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    limits: RolloutLimits | None = None,
    workers: int = 0,
    resume: bool | Path = False,
    console: Console | None = None,
    distributed: DistributedContext | None = None,
) -> None:
    """Train a model by GRPO and save it under ``out/model``.

    With several ranks each collects the rollouts of its shard of every step's scenes. The result
    does not depend on their number: scenes, seeds and learning rate follow from the step alone.

    Args:
        loaded: the model; the same on every rank. It ends up with the trained weights.
        source: training scenes; a run goes through them in its own random order.
        rules: of the episodes, rewards included; ``config.reward_schedule`` may change those.
        config: of the training.
        out: folder of the run; traces with crops are written as often as completions tables, of
            the first rank's shard.
        engine: samples; by default the model itself. The policy gradient is corrected for the
            difference of another engine (``importance_cap``, 2 unless set).
        evaluate: step -> numbers of ``loaded`` as that step left it, with which the engine then
            samples; each ``config.eval_interval`` steps, on the first rank only. Logged as
            ``eval/<name>``.
        limits: of the rollouts; by default those of ``RolloutLimits``.
        workers: processes that prepare the scenes of coming steps; the run stays the same.
        resume: go on from the newest checkpoint in ``out``, or from the one in a folder.
        console: where to print.
        distributed: the processes of the run; by default this one alone.

    Raises:
        ConfigError: when a step needs more scenes than there are or fewer than there are ranks,
            the schedule holds a value that no reward can have, workers cannot get the source, or
            ``eval_interval`` is above 0 without ``evaluate``.
    """
    GRPORun(
        loaded,
        source,
        rules,
        config,
        out,
        engine=engine,
        evaluator=evaluate,
        limits=limits or RolloutLimits(),
        workers=workers,
        console=console,
        distributed=distributed or DistributedContext(),
    ).train(resume=resume)


@dataclass(eq=False)
class GRPORun:
    """The parts of one run, see ``train_grpo``."""

    loaded: LoadedModel
    source: SceneSource
    rules: EpisodeConfig
    config: GRPOConfig
    out: Path
    engine: Engine | None = None
    evaluator: Callable[[int], Mapping[str, float]] | None = None
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    workers: int = 0
    console: Console | None = None
    distributed: DistributedContext = field(default_factory=DistributedContext)

    def __post_init__(self) -> None:
        """Check the settings and make policy and sampler.

        Raises:
            ConfigError: see ``train_grpo``.
        """
        _check_scenes(self.rules, self.config, len(self.source), self.distributed.world_size)
        self.vlm = self.loaded.vlm
        if self.distributed.world_size > 1:  # a pass over the whole model
            self.distributed.check_same("weights", fingerprint(self.vlm.model.state_dict()))
        sharded = self.distributed.sharded
        self.policy = ShardedVLM(self.vlm, self.distributed) if sharded else self.vlm
        self.shard = self.distributed.shard(self.config.scenes_per_step)
        self.sampler = self.engine or engine_for(self.vlm)
        if not self.sampler.exact_logprobs and self.config.importance_cap is None:
            self.config = replace(self.config, importance_cap=OTHER_ENGINE_CAP)
        self.scenes = self.source
        # Of the weights that a step samples with; steps have the same numbers in every run.
        self._versions: defaultdict[int, int] = defaultdict(new_version)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.out / "checkpoints"

    def scenes_of(self, step: int, round_: int = 0) -> list[int]:
        """Return the scenes of this rank in one round of a step."""
        indices = scene_indices(step, self.config, len(self.source), round_)
        return indices[self.shard.start : self.shard.stop]

    def generate(self, step: int, round_: int) -> list[RolloutGroup]:
        """Collect this rank's groups of one round of a step.

        Args:
            step: from 1.
            round_: 0, or the number of the round of further scenes.

        Returns:
            One group for each scene of the shard.
        """
        config = self.config
        writer = self._trace_writer(step, round_)
        self.vlm.model.eval()
        if not round_:
            self._copy_policy()
        self.sampler.sync(self.vlm, self._versions[step])
        try:
            return collect_rollouts(
                self.sampler,
                self.scenes,
                self.scenes_of(step, round_),
                config.group_size,
                rules_at(self.rules, config.reward_schedule, step),
                seed=config.seed,
                step=step,
                first_index=round_ * config.scenes_per_step + self.shard.start,
                sampling=Sampling(
                    config.temperature, self.limits.max_new_tokens, self.limits.token_budget
                ),
                writer=writer,
                answers_per_look=config.answers_per_look,
                blank_answers=config.blank_answers,
                measure_regions=config.look_credit == "regions",
            )
        finally:
            if writer is not None:
                writer.close()

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Evaluate the model after a step, on the first rank; all ranks must call this."""
        self.vlm.model.eval()
        self._copy_policy()
        if self.evaluator is None or not self.distributed.is_main:
            return {}
        # The weights that the next step samples with.
        self.sampler.sync(self.vlm, self._versions[step + 1])
        return self.evaluator(step)

    def train(self, *, resume: bool | Path = False) -> None:
        """Train the model and save it.

        Args:
            resume: go on from the newest checkpoint, if there is one, or from the one in a folder.
        """
        with RunLogger(
            self.out,
            self.config.steps,
            print_interval=self.config.print_interval,
            completions_interval=self.config.completions_interval,
            console=self.console,
        ) as logger:
            trainer = self._trainer(logger)
            start = None if isinstance(resume, bool) else resume
            if resume is True:
                start = self.distributed.all_gather(latest_checkpoint(self.checkpoints))[0]
            if start is not None:
                trainer.resume(start)
            with self._prefetching(trainer.step + 1):
                trainer.train()
        self._copy_policy()
        if self.distributed.is_main:
            save_model(self.vlm, self.out / "model", self.rules)

    def _trainer(self, logger: RunLogger) -> GRPOTrainer:
        reference = None
        if self.config.kl_weight:
            reference = _reference(self.policy, self.vlm, self.config, self.distributed)
        return GRPOTrainer(
            self.policy,
            self.generate,
            self.config,
            reference=reference,
            evaluate=self.evaluate if self.evaluator else None,
            logger=logger,
            checkpoints=self.checkpoints,
            distributed=self.distributed,
        )

    def _copy_policy(self) -> None:
        """Copy the weights of a sharded policy to the model that samples; all ranks together."""
        if self.policy is not self.vlm:
            copy_weights(self.policy, self.vlm)

    def _trace_writer(self, step: int, round_: int) -> TraceWriter | None:
        """Return where to record the episodes of a round, if it is one that is recorded."""
        every = self.config.completions_interval
        if not self.distributed.is_main or not every or (step > 1 and step % every):
            return None
        name = f"step_{step:06d}" + (f"_round_{round_}" if round_ else "")
        return TraceWriter(self.out / "traces" / name, source=describe_source(self.source))

    @contextmanager
    def _prefetching(self, first_step: int) -> Iterator[None]:
        """Prepare the scenes from a step on in worker processes, where there are some."""
        if not self.workers:
            yield
            return
        steps = range(first_step, self.config.steps + 1)
        indices = (index for step in steps for index in self.scenes_of(step))
        ahead = 2 * len(self.shard)
        prefetched = PrefetchedScenes(self.source, indices, workers=self.workers, ahead=ahead)
        self.scenes = prefetched
        try:
            yield
        finally:
            prefetched.close()


def _check_scenes(rules: EpisodeConfig, config: GRPOConfig, scenes: int, world_size: int) -> None:
    """Check that every step has scenes for all ranks and a valid reward."""
    check_schedule(rules, config.reward_schedule)
    if config.answers_per_look > 1 and (rules.max_looks == 0 or rules.max_turns == 1):
        raise ConfigError(
            "answers_per_look: expected 1 where no answer can follow a look, "
            f"got {config.answers_per_look} with max_looks {rules.max_looks} and max_turns "
            f"{rules.max_turns}"
        )
    if config.scenes_per_step > scenes:
        raise ConfigError(
            f"scenes_per_step: expected at most the {scenes} scenes there are, "
            f"got {config.scenes_per_step}"
        )
    if config.scenes_per_step < world_size:
        raise ConfigError(
            f"scenes_per_step: expected at least one for each of {world_size} ranks, "
            f"got {config.scenes_per_step}"
        )


def scene_indices(step: int, config: GRPOConfig, count: int, round_: int = 0) -> list[int]:
    """Return the scenes of a step, all different; a pure function, so that a resume agrees.

    Small sources are used epoch by epoch, each in its own order; from huge ones scenes are taken in
    sequence. Further rounds of a step draw from all scenes.

    Args:
        step: from 1.
        config: gives the seed and P.
        count: number of scenes of the source.
        round_: 0, or the number of the round of further scenes.

    Returns:
        P indices.
    """
    wanted = config.scenes_per_step
    if round_:
        draw = random.Random(derived_seed(config.seed, "resample", step, round_))
        return draw.sample(range(count), wanted)
    steps_per_epoch = count // wanted
    if count > LARGE_SOURCE:
        first = (step - 1) * wanted
        return [(config.seed * 1_000_003 + first + i) % count for i in range(wanted)]
    epoch, position = divmod(step - 1, steps_per_epoch)
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "epoch", epoch))
    order = torch.randperm(count, generator=generator)
    return [int(i) for i in order[position * wanted : (position + 1) * wanted]]


def _reference(
    policy: VisionLanguageModel | ShardedVLM,
    vlm: VisionLanguageModel,
    config: GRPOConfig,
    distributed: DistributedContext,
) -> Callable[[Sequence[TokenBuffer]], torch.Tensor]:
    """Return logprobs of the policy the run started from: LoRA off, or a frozen copy."""
    if policy.has_adapter:

        def without_adapter(buffers: Sequence[TokenBuffer]) -> torch.Tensor:
            with policy.without_adapter():
                return policy.token_logprobs(buffers, config.temperature).logprobs

        return without_adapter
    if distributed.sharded:
        sharded = ShardedVLM(vlm, distributed)
        sharded.model.requires_grad_(False)
        return lambda buffers: sharded.token_logprobs(buffers, config.temperature).logprobs
    frozen = vlm.frozen_copy()
    return lambda buffers: frozen.token_logprobs(buffers, config.temperature).logprobs
