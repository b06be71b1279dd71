"""Both Qwen-VL families, whole and with LoRA, learn through the same loop from a saved folder."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from dip_agents.engines.base import Sampling
from dip_agents.engines.choose import engine_for
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.records import RolloutGroup
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.loading import load_model, save_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_env.config import EpisodeConfig
from dip_env.result import Ending

CONFIG = GRPOConfig(
    steps=8,
    scenes_per_step=1,
    group_size=16,
    learning_rate=0.01,
    warmup_steps=0,
    print_interval=0,
)


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def folder(request, tmp_path_factory):
    model, processor = build_tiny(tiny_texts(), family=request.param, size="micro")
    with torch.no_grad():  # else LoRA, which leaves the head alone, could hardly move the logits
        model.model.language_model.norm.weight.mul_(16.0)
    patch = VLM(model, processor).chat.patch
    rules = EpisodeConfig(
        view_size=4 * 2 * patch,
        crop_size=2 * 2 * patch,
        size_multiple=2 * patch,
        max_turns=2,
        minimal_prompt=True,
    )
    where = tmp_path_factory.mktemp(request.param)
    save_model(VLM(model, processor), where, rules)
    return where


def rewarded_for_small_ids(groups):
    """Reward every rollout with the share of its tokens whose id is below 1100."""
    rewarded = []
    for group in groups:
        rollouts = []
        for rollout in group.rollouts:
            buffer = rollout.buffer
            sampled = [i for i, mine in zip(buffer.ids, buffer.loss_mask, strict=True) if mine]
            stats = dataclasses.replace(rollout.stats, ending=Ending.ANSWER)
            reward = sum(i < 1100 for i in sampled) / len(sampled)
            rollouts.append(dataclasses.replace(rollout, reward=reward, stats=stats))
        rewarded.append(RolloutGroup(group.scene_index, rollouts))
    return rewarded


@pytest.mark.parametrize("rank", [0, 8])
def test_a_folder_of_either_family_learns_whole_and_with_lora(folder, rank, toy, caplog):
    torch.manual_seed(0)
    loaded = load_model(str(folder), dtype="float32", lora_rank=rank)
    engine = engine_for(loaded.vlm)
    rewards = []

    def play(step, round_):
        groups = rewarded_for_small_ids(
            collect_rollouts(
                engine,
                toy,
                [0],
                16,
                loaded.rules,
                seed=0,
                step=step,
                sampling=Sampling(1.0, 12, 200),
            )
        )
        rewards.append(np.mean([rollout.reward for rollout in groups[0].rollouts]))
        return groups

    frozen = {n: p.clone() for n, p in loaded.vlm.model.named_parameters() if not p.requires_grad}
    with caplog.at_level(logging.WARNING):
        GRPOTrainer(loaded.vlm, play, CONFIG).train()
    assert not caplog.records  # no fallback: prefix sharing and the fast decoder included
    assert bool(frozen) == (rank > 0)
    assert all(
        torch.equal(p, frozen[n]) for n, p in loaded.vlm.model.named_parameters() if n in frozen
    )
    assert rewards[0] < 0.1
    assert np.mean(rewards[-2:]) > 0.9
