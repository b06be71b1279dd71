"""Does GRPO learn, and would this file notice if it did not?

The bundled model answers on ``easy`` scenes without looks and with a turn limit of 23 tokens, which
cuts half of its answers short: it must learn to keep them short enough to count. A right loop gets
there in eight steps; one with a wrong sign, a wrong mask or shifted logprobs does not.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dip_agents.grpo.updater
from dip_agents.engines.base import Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.loading import load_model
from dip_env.config import RewardConfig
from dip_env.scenes import make_source
from dip_env.scenes.transforms.stored import StoredScenes

CONFIG = GRPOConfig(
    steps=8,
    scenes_per_step=4,
    group_size=8,
    learning_rate=2e-4,
    warmup_steps=1,
    micro_batch_tokens=8192,
    print_interval=0,
)
LIMIT = Sampling(1.0, max_new_tokens=23, token_budget=768)
HELD_OUT = range(1_000_000, 1_000_016)
BEFORE, AFTER = 0.55, 0.65  # held-out reward; went from .47 to .79


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """All runs learn from the same scenes: they are drawn once."""
    return StoredScenes(make_source("easy", seed=0), tmp_path_factory.mktemp("scenes"))


def learn(source) -> tuple[float, float]:
    """Return the mean reward on held-out scenes before and after eight steps."""
    loaded = load_model("tiny", dtype="bfloat16")
    rules = replace(loaded.rules, max_looks=0, reward=RewardConfig(0.6, 0.0, 0.4))
    engine = HFEngine(loaded.vlm)

    def play(step, scenes=None, members=CONFIG.group_size):
        first = step * CONFIG.scenes_per_step
        scenes = scenes or range(first, first + CONFIG.scenes_per_step)
        return collect_rollouts(
            engine, source, scenes, members, rules, seed=0, step=step, sampling=LIMIT
        )

    def measure():
        groups = play(0, HELD_OUT, 2)
        return float(np.mean([r.reward for group in groups for r in group.rollouts]))

    before = measure()
    GRPOTrainer(loaded.vlm, lambda step, round_: play(step), CONFIG).train()
    return before, measure()


def mutated(monkeypatch, change):
    """Put a wrong loss in the place of the right one."""
    right = dip_agents.grpo.updater.policy_loss

    def wrong(inputs, *more, **named):
        return right(change(inputs), *more, **named)

    monkeypatch.setattr(dip_agents.grpo.updater, "policy_loss", wrong)


@pytest.mark.slow
def test_grpo_lifts_the_reward_of_the_bundled_model_past_a_threshold(source):
    before, after = learn(source)
    assert before < BEFORE
    assert after > AFTER


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: replace(inputs, advantages=-inputs.advantages),
        lambda inputs: replace(inputs, mask=~inputs.mask),
        lambda inputs: replace(inputs, old_logprobs=torch.roll(inputs.old_logprobs, 1, 1)),
    ],
    ids=["advantages negated", "mask inverted", "old logprobs shifted"],
)
def test_a_broken_loss_would_be_noticed(source, monkeypatch, change):
    mutated(monkeypatch, change)
    _, after = learn(source)
    assert not after > AFTER
