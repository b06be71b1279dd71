"""Whole runs from parts: teach, train, evaluate; each writes a folder that tells what happened."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from dip_agents.engines.base import Engine, Sampling, new_version
from dip_agents.engines.choose import engine_for
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.result import EvalResult, format_interval, paired_gain, print_results
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.reward_schedule import check_schedule, rules_at
from dip_agents.grpo.rollouts import RolloutGroup, collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.fsdp import ShardedVLM
from dip_agents.models.loading import LoadedModel, save_model
from dip_agents.models.weights import copy_weights, fingerprint
from dip_agents.policies.oracle import OracleConfig
from dip_agents.policies.oracle_looks import LOOK_STRATEGIES
from dip_agents.policies.vlm import VLMPolicy
from dip_agents.runtime.checkpoints import latest_checkpoint
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import RunLogger
from dip_agents.runtime.seeds import derived_seed
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.demonstrations import DemonstrationDataset
from dip_agents.sft.trainer import train_sft
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes.base import SceneSource
from dip_env.scenes.transforms.prefetched import PrefetchedScenes
from dip_wrappers.traces import TraceWriter, describe_source

OTHER_ENGINE_CAP = 2.0
"""Cap of the importance weights where another engine than the trainer's model samples."""


def fine_tune(
    loaded: LoadedModel,
    source: SceneSource,
    rules: EpisodeConfig,
    config: SFTConfig,
    demonstrations: int,
    out: Path,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    console: Console | None = None,
    ranks: DistributedContext | None = None,
) -> None:
    """Teach a model from oracle demonstrations and save it under ``out/model``.

    Args:
        loaded: the model.
        source: training scenes.
        rules: of the episodes.
        config: of the fine-tuning.
        demonstrations: different demonstrations; each epoch plays all of them.
        out: folder of the run.
        resume: go on from the newest checkpoint in ``out``.
        stop_at: see ``train_sft``; the model is saved as it is then.
        console: where to print.
        ranks: the processes of the run, each with the same model; by default this one alone.
    """
    ranks = ranks or DistributedContext()
    vlm = loaded.vlm
    if ranks.count > 1:  # a pass over the whole model
        ranks.agree("weights", fingerprint(vlm.model.state_dict()))
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
        p_no_look=config.p_no_look,
        p_blurred_overview=config.p_blurred_overview,
    )
    if not ranks.first:
        train_sft(vlm, data, config, out, resume=resume, stop_at=stop_at, ranks=ranks)
        return
    with RunLogger(out, config.steps, print_interval=20, console=console) as logger:
        train_sft(
            vlm, data, config, out, resume=resume, stop_at=stop_at, logger=logger, ranks=ranks
        )
    save_model(vlm, out / "model", rules)


def train_grpo(
    loaded: LoadedModel,
    source: SceneSource,
    rules: EpisodeConfig,
    config: GRPOConfig,
    out: Path,
    *,
    engine: Engine | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    max_new_tokens: int = 256,
    token_budget: int = 2048,
    workers: int = 0,
    resume: bool = False,
    console: Console | None = None,
    ranks: DistributedContext | None = None,
) -> None:
    """Improve a model by GRPO and save it under ``out/model``.

    With several ranks each plays its share of the scenes of every step. What is learned does not
    depend on their number: scenes, seeds and learning rate follow from the step alone.

    Args:
        loaded: the model; the same on every rank. It ends up with the weights learned.
        source: training scenes; a run goes through them in its own random order.
        rules: of the episodes, rewards included; ``config.reward_schedule`` may change those.
        config: of the training.
        engine: samples; by default the model itself. The policy gradient is corrected for the
            difference of another engine (``importance_cap``, 2 unless set).
        evaluate: step -> numbers of ``loaded`` as that step left it, which the engine then has;
            each ``config.eval_interval`` steps, on the first rank only. Logged as ``eval/<name>``.
        out: folder of the run; traces with crops are written as often as completions tables, of
            the first rank's share.
        max_new_tokens: tokens of one turn.
        token_budget: tokens of one episode.
        workers: processes that prepare the scenes of coming steps; the run stays the same.
        resume: go on from the newest checkpoint in ``out``.
        console: where to print.
        ranks: the processes of the run; by default this one alone.

    Raises:
        ConfigError: when a step needs more scenes than there are or fewer than there are ranks,
            the schedule holds a value that no reward can have, workers cannot get the source, or
            ``eval_interval`` is above 0 without ``evaluate``.
    """
    check_schedule(rules, config.reward_schedule)
    if config.scenes_per_step > len(source):
        raise ConfigError(
            f"scenes_per_step: expected at most the {len(source)} scenes there are, "
            f"got {config.scenes_per_step}"
        )
    ranks = ranks or DistributedContext()
    if config.scenes_per_step < ranks.count:
        raise ConfigError(
            f"scenes_per_step: expected at least one for each of {ranks.count} ranks, "
            f"got {config.scenes_per_step}"
        )
    vlm = loaded.vlm
    if ranks.count > 1:  # a pass over the whole model
        ranks.agree("weights", fingerprint(vlm.model.state_dict()))
    policy = ShardedVLM(vlm, ranks) if ranks.sharded else vlm
    mine = ranks.share(config.scenes_per_step)
    sampler = engine or engine_for(vlm)
    if not sampler.exact_logprobs and config.importance_cap is None:
        config = replace(config, importance_cap=OTHER_ENGINE_CAP)
    sampling = Sampling(config.temperature, max_new_tokens, token_budget)
    scenes = source
    # Of the weights that a step plays with; steps have the same numbers in every run.
    versions: defaultdict[int, int] = defaultdict(new_version)

    def scenes_of(step: int, round_: int = 0) -> list[int]:
        everyones = scene_indices(step, config, len(source), round_)
        return everyones[mine.start : mine.stop]

    def play(step: int, round_: int = 0) -> list[RolloutGroup]:
        every = config.completions_interval
        watched = ranks.first and every > 0 and (step == 1 or step % every == 0)
        writer = None
        if watched:
            name = f"step_{step:06d}" + (f"_round_{round_}" if round_ else "")
            writer = TraceWriter(out / "traces" / name, source=describe_source(source))
        vlm.model.eval()
        if policy is not vlm and not round_:
            copy_weights(policy, vlm)
        sampler.sync(vlm, versions[step])
        try:
            return collect_rollouts(
                sampler,
                scenes,
                scenes_of(step, round_),
                config.group_size,
                rules_at(rules, config.reward_schedule, step),
                seed=config.seed,
                step=step,
                first_place=round_ * config.scenes_per_step + mine.start,
                sampling=sampling,
                writer=writer,
            )
        finally:
            if writer is not None:
                writer.close()

    def measured(step: int) -> Mapping[str, float]:
        vlm.model.eval()
        if policy is not vlm:
            copy_weights(policy, vlm)  # all ranks together
        if evaluate is None or not ranks.first:
            return {}
        sampler.sync(vlm, versions[step + 1])  # the weights that the next step plays with
        return evaluate(step)

    with RunLogger(
        out,
        config.steps,
        print_interval=config.print_interval,
        completions_interval=config.completions_interval,
        console=console,
    ) as logger:
        trainer = GRPOTrainer(
            policy,
            play,
            config,
            collect_more=play,
            reference=_reference(policy, vlm, config, ranks) if config.kl_weight else None,
            evaluate=measured if evaluate else None,
            logger=logger,
            checkpoints=out / "checkpoints",
            ranks=ranks,
        )
        if resume and ranks.gather(latest_checkpoint(out / "checkpoints"))[0] is not None:
            trainer.resume()
        if workers:
            to_come = range(trainer.step + 1, config.steps + 1)
            announced = (i for step in to_come for i in scenes_of(step))
            scenes = PrefetchedScenes(source, announced, workers=workers, ahead=2 * len(mine))
        try:
            trainer.train()
        finally:
            if isinstance(scenes, PrefetchedScenes):
                scenes.close()
    if policy is not vlm:
        copy_weights(policy, vlm)
    if ranks.first:
        save_model(vlm, out / "model", rules)


def scene_indices(step: int, config: GRPOConfig, count: int, round_: int = 0) -> list[int]:
    """Return the scenes of a step, all different; a pure function, so that a resume agrees.

    Small sources are gone through epoch by epoch, each in its own order; huge ones are drawn from.
    Further rounds of a step draw from all scenes.

    Args:
        step: from 1.
        config: gives the seed and P.
        count: scenes there are.
        round_: 0, or which round of further scenes.

    Returns:
        P indices.
    """
    wanted = config.scenes_per_step
    if round_:
        draw = random.Random(derived_seed(config.seed, "resample", step, round_))
        return draw.sample(range(count), wanted)
    steps_per_epoch = count // wanted
    if count > 1_000_000:
        first = (step - 1) * wanted
        return [(config.seed * 1_000_003 + first + i) % count for i in range(wanted)]
    epoch, at = divmod(step - 1, steps_per_epoch)
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "epoch", epoch))
    order = torch.randperm(count, generator=generator)
    return [int(i) for i in order[at * wanted : (at + 1) * wanted]]


def evaluate_model(
    vlm: VisionLanguageModel,
    source: SceneSource,
    indices: Sequence[int],
    rules: EpisodeConfig,
    *,
    max_new_tokens: int,
    token_budget: int,
    temperature: float = 0.0,
    out: Path | None = None,
    batch_size: int = 64,
    engine: Engine | None = None,
) -> EvalResult:
    """Evaluate a model.

    Args:
        vlm: the model.
        source: scenes.
        indices: which of them.
        rules: of the episodes.
        max_new_tokens: tokens of one turn.
        token_budget: tokens of one episode.
        temperature: of sampling, with the same seeds in every evaluation; 0 is greedy.
        out: folder for the results, or None.
        batch_size: episodes played together.
        engine: samples; by default the model itself.

    Returns:
        The result.
    """
    policy = VLMPolicy(
        engine or engine_for(vlm), temperature, max_new_tokens, token_budget, batch_size
    )
    return evaluate(policy, source, indices, rules, batch_size=batch_size, out=out)


def report_gain(before: EvalResult, after: EvalResult, out: Path, console: Console) -> None:
    """Print two evaluations of the same scenes with their paired gain, and keep them as JSON.

    Args:
        before: of the model that training started from.
        after: of the trained one.
        out: folder for ``result.json``.
        console: where to print.
    """
    print_results({"before": before, "after": after}, console)
    gain = paired_gain(before, after)
    result = {
        "before": before.to_json(),
        "after": after.to_json(),
        "paired_gain": {name: asdict(interval) for name, interval in gain.items()},
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    reward = format_interval(gain["reward"], sign=True)
    console.print(f"reward gain {reward} (95 % interval) over {after.n} scenes", markup=False)


def _reference(
    policy: VisionLanguageModel | ShardedVLM,
    vlm: VisionLanguageModel,
    config: GRPOConfig,
    ranks: DistributedContext,
) -> Callable[[Sequence[TokenBuffer]], torch.Tensor]:
    """Return logprobs of the policy the run started from: LoRA off, or a frozen copy."""
    if policy.has_adapter:

        def without_adapter(buffers: Sequence[TokenBuffer]) -> torch.Tensor:
            with policy.without_adapter():
                return policy.token_logprobs(buffers, config.temperature).logprobs

        return without_adapter
    if ranks.sharded:
        sharded = ShardedVLM(vlm, ranks)
        sharded.model.requires_grad_(False)
        return lambda buffers: sharded.token_logprobs(buffers, config.temperature).logprobs
    frozen = vlm.frozen_copy()
    return lambda buffers: frozen.token_logprobs(buffers, config.temperature).logprobs
