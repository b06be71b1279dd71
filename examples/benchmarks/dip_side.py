"""Our side of ``grpo_vs_trl.py``: trains on the workload in this process, prints one JSON line."""

from __future__ import annotations

import argparse
import cProfile
import importlib.metadata
import itertools
import pstats
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_workload import MODEL_FOLDER, Run, Workload, fingerprint, peak_megabytes, regions_of
from grpo_workload import reward as reward_of

from dip_agents import (
    VLM,
    GRPOConfig,
    GRPOTrainer,
    HFEngine,
    Rollout,
    RolloutGroup,
    Sampling,
    collect_rollouts,
    load_model,
)
from dip_agents.grpo.updater import PolicyModel
from dip_agents.runtime import RunLogger
from dip_agents.tokens import ChatTokens
from dip_env import EpisodeConfig, Scene, SceneSource, make_source

PROFILED_LINES = 40


def scenes_of(work: Workload) -> SceneSource:
    """Return the scenes of the workload, the same on both sides."""
    return make_source("easy", seed=work.seed, size=(work.scene, work.scene))


class Drawn:
    """Scenes that are drawn before the clock starts; they depend on seed and index only."""

    def __init__(self, work: Workload) -> None:
        """Draw all of them."""
        source = scenes_of(work)
        self._scenes = [source[i] for i in range(work.scenes)]
        for scene in self._scenes:
            _ = scene.image

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        """Return one of them."""
        return self._scenes[index]


class LooksAnyway(ChatTokens):
    """Reads a look out of any turn, see ``regions_of``: what is asked for depends on the tokens."""

    view = 0

    def text(self, ids: Sequence[int]) -> str:
        """Return a look for any ids."""
        boxes = ",".join(f"[{','.join(map(str, box))}]" for box in regions_of(ids, self.view))
        return f"<look>[{boxes}]</look>"


class StopWatch(RunLogger):
    """Keeps the numbers of each step in memory, with the time at its end; writes nothing."""

    def __init__(self) -> None:
        """Start empty."""
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.rows: list[dict[str, float]] = []

    def start(self, step: int = 0) -> None:
        """Do nothing."""

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember one step."""
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.rows.append(dict(metrics))

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run leaves behind: numbers of every step, rollouts of the timed steps."""

    clock: StopWatch
    groups: list[RolloutGroup]
    openings: list[list[int]]
    """Token ids of the prompts of the first step."""

    def timed(self, work: Workload, name: str) -> float:
        """Return the mean of a logged number over the timed steps."""
        return sum(row[name] for row in self.clock.rows[work.warmup :]) / work.steps


def train(
    work: Workload,
    vlm: VLM,
    rules: EpisodeConfig,
    *,
    engine: HFEngine | None = None,
    source: SceneSource | None = None,
    policy: PolicyModel | None = None,
    micro_batch_tokens: int | None = None,
) -> Trained:
    """Run the workload on a model.

    Args:
        work: the task.
        vlm: the model.
        rules: of the episodes.
        engine: samples, by default with the model itself.
        source: the scenes, if they are drawn already.
        policy: what the trainer sees of the model, by default all of it.
        micro_batch_tokens: of the update; by default as many as suit the device.
    """
    engine = engine or HFEngine(vlm)
    if work.turns > 1:
        engine.chat = LooksAnyway(vlm.processor)
        engine.chat.view = work.view
    source = source or Drawn(work)
    sampling = Sampling(1.0, work.new_tokens, token_budget=work.token_budget)
    groups_kept: list[RolloutGroup] = []
    openings: list[list[int]] = []

    def rewarded(rollout: Rollout) -> Rollout:
        buffer = rollout.buffer
        said = [i for i, own in zip(buffer.ids, buffer.loss_mask, strict=True) if own]
        return replace(rollout, reward=reward_of(vlm.chat.text(said)))

    def play(step: int, round_: int) -> list[RolloutGroup]:
        engine.sync(vlm, step)
        first = (step - 1) * work.groups
        groups = collect_rollouts(
            engine,
            source,
            range(first, first + work.groups),
            work.group_size,
            rules,
            seed=work.seed,
            step=step,
            sampling=sampling,
        )
        groups = [replace(g, rollouts=[rewarded(r) for r in g.rollouts]) for g in groups]
        if step == 1:
            buffers = [group.rollouts[0].buffer for group in groups]
            openings.extend(b.ids[: b.loss_mask.index(1)] for b in buffers)
        if step > work.warmup:
            groups_kept.extend(groups)
        return groups

    config = GRPOConfig(
        steps=work.warmup + work.steps,
        scenes_per_step=work.groups,
        group_size=work.group_size,
        learning_rate=work.learning_rate,
        warmup_steps=0,
        clip_low=work.clip_low,
        clip_high=work.clip_high,
        micro_batch_tokens=micro_batch_tokens,
        seed=work.seed,
    )
    clock = StopWatch()
    GRPOTrainer(policy or vlm, play, config, logger=clock).train()
    done = Trained(clock, groups_kept, openings)
    # Every rollout must have been learned from, or the update would have been too cheap.
    sampled = sum(sum(r.buffer.loss_mask) for group in groups_kept for r in group.rollouts)
    learned = done.timed(work, "train/tokens") * work.steps
    if round(learned) != sampled:
        raise RuntimeError(f"expected to learn from {sampled} tokens, got {learned:.0f}")
    return done


def measure(work: Workload, folder: Path) -> Run:
    """Run the workload on the model of the folder and say what it took."""
    loaded = load_model(str(folder / MODEL_FOLDER), device="cpu", seed=work.seed)
    done = train(work, loaded.vlm, loaded.rules)
    rollouts = [rollout for group in done.groups for rollout in group.rollouts]
    lengths = [sum(rollout.buffer.loss_mask) for rollout in rollouts]
    clock = done.clock
    ends = clock.ends[work.warmup - 1 :]
    return Run(
        side="ours",
        setting=load_dtype(),
        step_seconds=[b - a for a, b in itertools.pairwise(ends)],
        cpu_seconds=clock.cpu[-1] - clock.cpu[work.warmup - 1],
        rollouts=len(rollouts),
        sampled_tokens=sum(lengths),
        total_tokens=sum(len(rollout.buffer) for rollout in rollouts),
        lengths=(min(lengths), max(lengths)),
        prompt_tokens=len(done.openings[0]),
        prompts=fingerprint(done.openings),
        megabytes=peak_megabytes(),
        phases={
            "rollout": done.timed(work, "time/collect"),
            "of it environment, mostly beside the decoding": done.timed(work, "time/environment"),
            "update": done.timed(work, "time/update"),
        },
        versions={name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    )


def load_dtype() -> str:
    """Say what ``load_model(dtype="auto")`` computes in on this machine's CPU."""
    import torch

    fast = torch.cpu._is_avx512_bf16_supported()
    return "fp32 weights, bf16 products" if fast else "fp32"


def profiled(call: Callable[[], Run], path: Path) -> Run:
    """Run under cProfile and write where the time went: by own time, then by cumulative time."""
    profile = cProfile.Profile()
    run = profile.runcall(call)
    with path.open("w", encoding="utf-8") as file:
        stats = pstats.Stats(profile, stream=file)
        stats.sort_stats("tottime").print_stats(PROFILED_LINES)
        stats.sort_stats("cumulative").print_stats(PROFILED_LINES)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the workload")
    parser.add_argument("--profile", type=Path, help="write a cProfile list here")
    arguments = parser.parse_args()
    work = Workload.load(arguments.folder)
    if arguments.profile:
        run = profiled(lambda: measure(work, arguments.folder), arguments.profile)
    else:
        run = measure(work, arguments.folder)
    print(run.to_line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
