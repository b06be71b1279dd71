"""The trainer on a world small enough to follow: one hidden layer, eight symbols, no images.

The prompt names a symbol; the policy should write it. Run as a script, this file is the run that
the resume test kills.
"""

import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dip_agents.grpo.batch import training_batch
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.credit import compute_advantages
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.objectives.choices import AdvantageKind
from dip_agents.runtime import checkpoints
from dip_agents.runtime.errors import CheckpointError, NonFiniteUpdateError
from dip_agents.runtime.logger import RunLogger, read_metrics
from dip_agents.runtime.random_state import rng_state
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.errors import ConfigError
from dip_env.result import Ending

START, REPLY = 7, 6  # what the environment says, beside the symbols 1 to 4


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give on tensors this small, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ToyLogprobs(NamedTuple):
    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class ToyModel(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(8, 12)
        self.read = nn.Linear(24, 16)
        self.head = nn.Linear(16, 8)
        self.label_noise = 0  # added to the labels of masked tokens, not to what is read

    def trainable_parameters(self):
        return self.parameters()

    def next_logits(self, ids):
        """Logits (B, T, 8) of the token after each; a token sees itself and the mean so far."""
        embeds = self.embed(ids)
        mean = embeds.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return self.head(torch.tanh(self.read(torch.cat([embeds, mean], -1))))

    def token_logprobs(self, buffers, temperature=1.0):
        width = max(len(buffer.ids) for buffer in buffers)
        ids = torch.zeros(len(buffers), width, dtype=torch.long)
        mask = torch.zeros(len(buffers), width, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            ids[row, : len(buffer.ids)] = torch.tensor(buffer.ids)
            mask[row, : len(buffer.ids)] = torch.tensor(buffer.loss_mask).bool()
        mask[:, 0] = False
        labels = torch.where(mask, ids, (ids + self.label_noise) % 8)
        logp = torch.log_softmax(self.next_logits(ids)[:, :-1] / temperature, -1)
        logp = torch.cat([torch.zeros(len(buffers), 1, 8), logp], 1)
        chosen = logp.gather(2, labels[..., None])[..., 0]
        return ToyLogprobs(chosen, -(logp.exp() * logp).sum(-1), mask)


def toy_group(symbol: int, rollouts: list[Rollout]) -> RolloutGroup:
    return RolloutGroup(symbol, rollouts, {"accuracy": 1.0}, environment_seconds=1e-6)


def with_rewards(group: RolloutGroup, rewards) -> RolloutGroup:
    rollouts = [
        replace(rollout, reward=reward, terms={"accuracy": reward})
        for rollout, reward in zip(group.rollouts, rewards, strict=True)
    ]
    return replace(group, rollouts=rollouts)


class ToyWorld:
    """Draws from the global generators of python, numpy and torch, so that all three matter."""

    def __init__(self, model: ToyModel, config: GRPOConfig) -> None:
        self.model, self.config = model, config

    @torch.no_grad()
    def play(self, symbol: int) -> Rollout:
        buffer = TokenBuffer(image_token_id=99)
        for said in ([START, symbol], [REPLY]):
            buffer.append_env(said)
            for _ in range(np.random.randint(1, 4)):
                logits = self.model.next_logits(torch.tensor([buffer.ids]))[0, -1]
                logp = torch.log_softmax(logits / self.config.temperature, -1)
                token = int(torch.multinomial(logp.exp(), 1))
                buffer.append_policy([token], [float(logp[token])])
        written = [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
        reward = written.count(symbol) / len(written)
        anchors = (f"symbol {symbol}", f"reply to {buffer.ids[2]}")
        stats = RolloutStats(
            turns=2,
            regions=1,
            look_area=0.5,
            boxes=len(written),
            truth_count=2,
            parse_failures=0,
            ending=Ending.ANSWER,
            turn_records=tuple(TurnRecord(anchor, 0) for anchor in anchors),
        )
        return Rollout(buffer, reward, {"accuracy": reward}, stats)

    def __call__(self, step: int, round_: int) -> list[RolloutGroup]:
        symbols = [random.randint(1, 4) for _ in range(self.config.scenes_per_step)]
        return [
            toy_group(s, [self.play(s) for _ in range(self.config.group_size)]) for s in symbols
        ]


SMALL = GRPOConfig(
    steps=7,
    scenes_per_step=3,
    group_size=4,
    learning_rate=0.02,
    warmup_steps=3,
    updates_per_batch=2,
    micro_batch_size=2,
    checkpoint_interval=2,
    print_interval=0,
)


def make_trainer(config: GRPOConfig = SMALL, folder: Path | None = None, **more) -> GRPOTrainer:
    model = ToyModel()
    if folder is not None:
        more["logger"] = RunLogger(folder, config.steps, print_interval=config.print_interval)
        more["checkpoints"] = folder / "checkpoints"
    return GRPOTrainer(model, ToyWorld(model, config), config, **more)


def play_batch(trainer: GRPOTrainer, groups=None):
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    groups = groups or trainer.collect(1, 0)
    return training_batch(groups, compute_advantages(groups, trainer.config.advantage))


def gradient_of(trainer: GRPOTrainer, batch) -> list[Tensor]:
    """Return the gradient of the first update instead of taking it."""
    found: list[Tensor] = []
    trainer.optimizer.step = lambda: found.extend(p.grad.clone() for p in trainer.parameters)
    trainer.update(batch, 0.0)
    return found[: len(trainer.parameters)]


def plain_gradient(model: ToyModel, batch) -> list[Tensor]:
    """REINFORCE with these advantages, one rollout and one token at a time."""
    total = torch.zeros(())
    for buffer, advantage in zip(batch.buffers, batch.advantages, strict=True):
        logp = model.token_logprobs([buffer]).logprobs[0]
        for t, active in enumerate(buffer.loss_mask):
            if active:
                total = total - advantage * logp[t] / batch.counts.tokens
    return list(torch.autograd.grad(total, list(model.parameters())))


UNCLIPPED = replace(SMALL, max_grad_norm=1e9, updates_per_batch=1)


@pytest.mark.grpo_property(1)
def test_the_first_update_has_ratio_exactly_one_and_the_gradient_of_reinforce():
    trainer = make_trainer(UNCLIPPED)
    batch = play_batch(trainer)
    numbers = trainer.update(batch, 0.0)
    assert numbers["train/ratio"] == 1.0
    assert numbers["train/ratio_deviation"] == 0.0
    assert numbers["train/clip_fraction"] == 0.0
    for got, wanted in zip(
        gradient_of(trainer, batch), plain_gradient(trainer.model, batch), strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-7, rtol=1e-5)


def test_several_updates_equal_a_plain_ppo_loop_with_the_logprobs_from_before():
    trainer = make_trainer(replace(SMALL, updates_per_batch=3, clip_low=0.02, clip_high=0.03))
    batch = play_batch(trainer)
    model = ToyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0)
    old = model.token_logprobs(batch.buffers).logprobs.detach()
    for _ in range(3):
        now = model.token_logprobs(batch.buffers)
        ratio = (now.logprobs - old).exp()
        a = batch.advantages[:, None]
        per_token = torch.minimum(ratio * a, ratio.clamp(0.98, 1.03) * a)
        optimizer.zero_grad()
        (-per_token[now.mask].sum() / batch.counts.tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    numbers = trainer.update(batch, 0.02)
    assert numbers["train/updates"] == 3
    assert numbers["train/clip_fraction"] > 0
    assert numbers["train/ratio_deviation"] > 0
    for got, wanted in zip(trainer.parameters, model.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.grpo_property(2)
def test_micro_batches_of_one_two_and_four_give_the_same_gradient():
    reference = make_trainer(UNCLIPPED)
    batch = play_batch(reference)
    assert len({len(buffer.ids) for buffer in batch.buffers}) > 1, "lengths must differ"
    wanted = gradient_of(make_trainer(replace(UNCLIPPED, micro_batch_size=None)), batch)
    for size in (1, 2, 4):
        got = gradient_of(make_trainer(replace(UNCLIPPED, micro_batch_size=size)), batch)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_label_of_a_masked_token_carries_no_gradient_but_the_token_is_context():
    trainer = make_trainer(UNCLIPPED)
    batch = play_batch(trainer)
    clean = gradient_of(trainer, batch)
    trainer.model.label_noise = 3
    relabelled = gradient_of(trainer, batch)
    assert all(torch.equal(a, b) for a, b in zip(clean, relabelled, strict=True))
    trainer.model.label_noise = 0
    for buffer in batch.buffers:
        buffer.ids[0] = 5  # the environment's first word
    assert not torch.equal(gradient_of(trainer, batch)[0], clean[0])


@pytest.mark.grpo_property(3)
def test_a_group_of_equal_rewards_gives_exactly_no_gradient_and_does_not_thin_the_others():
    config = replace(UNCLIPPED, advantage="dr_grpo")
    trainer = make_trainer(config)
    groups = trainer.collect(1, 0)
    groups[0] = with_rewards(groups[0], (0.0, 0.5, 0.5, 1.0))
    groups[1] = with_rewards(groups[1], (0.5,) * 4)
    alone = gradient_of(trainer, play_batch(trainer, groups[:1]))
    both = gradient_of(trainer, play_batch(trainer, groups[:2]))
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))

    trainer = make_trainer(config)
    before = [p.clone() for p in trainer.parameters]
    numbers = trainer.update(play_batch(trainer, groups[1:2]), 0.1)
    assert numbers == {"train/learning_rate": 0.1, "train/tokens": 0.0, "train/updates": 0.0}
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


@pytest.mark.grpo_property(3)
@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("kind", get_args(AdvantageKind))
def test_single_and_equally_rewarded_rollouts_give_exactly_no_gradient(kind, members):
    config = replace(UNCLIPPED, advantage=kind, updates_per_batch=2)
    trainer = make_trainer(config)
    world = ToyWorld(trainer.model, config)
    groups = [toy_group(s, [world.play(s) for _ in range(members)]) for s in (1, 2, 3)]
    for at, reward in enumerate((0.0, 1 / 3, 1.0)):  # scenes may differ
        groups[at] = with_rewards(groups[at], (reward,) * members)
    advantages = compute_advantages(groups, kind)
    assert len(training_batch(groups, advantages).buffers) == 0
    # Even if they were let through, each of their tokens would push by exactly nothing.
    let_through = replace(advantages, informative=torch.ones_like(advantages.informative))
    batch = training_batch(groups, let_through)
    assert len(batch.buffers) == 3 * members
    assert not any(grad.any() for grad in gradient_of(trainer, batch))
    # With one rollout better than its siblings there is a gradient.
    if members > 1:
        groups[1] = with_rewards(groups[1], (0.5, *(1 / 3,) * (members - 1)))
        uneven = training_batch(groups, compute_advantages(groups, kind))
        assert {scene for scene, _ in uneven.origins} == {2}
        assert any(grad.any() for grad in gradient_of(make_trainer(config), uneven))


def test_the_gap_to_the_sampler_is_measured_before_the_weights_move():
    trainer = make_trainer(replace(SMALL, updates_per_batch=3))
    batch = play_batch(trainer)
    numbers = trainer.update(batch, 0.1)
    assert 0 <= numbers["train/behaviour_gap_max"] < 1e-5
    for buffer in batch.buffers:
        buffer.logprobs = [lp - 0.5 * m for lp, m in zip(buffer.logprobs, buffer.loss_mask)]  # noqa: B905
    trainer = make_trainer(SMALL)
    numbers = trainer.update(batch, 0.1)
    assert numbers["train/behaviour_gap"] == pytest.approx(0.5, abs=1e-5)
    assert numbers["train/behaviour_gap_max"] == pytest.approx(0.5, abs=1e-5)


def test_the_kl_to_the_reference_is_zero_at_first_and_holds_the_policy_back():
    def distance(weight: float) -> float:
        frozen = ToyModel()
        trainer = make_trainer(
            replace(SMALL, updates_per_batch=8, kl_weight=weight, micro_batch_size=None),
            reference=lambda buffers: frozen.token_logprobs(buffers).logprobs,
        )
        batch = play_batch(trainer)
        assert trainer.update(batch, 0.0)["train/ref_kl"] == 0.0
        trainer.update(batch, 0.02)
        return trainer.update(batch, 0.0)["train/ref_kl"]

    assert distance(10.0) < 0.3 * distance(0.0)
    with pytest.raises(ConfigError, match=r"kl_weight: expected 0 without a reference"):
        make_trainer(replace(SMALL, kl_weight=0.1))


def test_a_number_that_is_not_finite_stops_the_run_before_the_weights_change():
    trainer = make_trainer()
    batch = play_batch(trainer)
    before = [p.clone() for p in trainer.parameters]
    batch.advantages[0] = math.nan
    scene, member = batch.origins[0]
    with pytest.raises(
        NonFiniteUpdateError, match=rf"loss nan.*\({scene}, {member}\).*\nat step 1"
    ):
        trainer.update(batch, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert all(p.grad is None for p in trainer.parameters)


def rewards_of_a_run(config: GRPOConfig) -> list[float]:
    """Train a new toy model and return the mean reward of each step."""
    trainer, rewards = make_trainer(config), []
    world = trainer.collect

    def collect(step, round_):
        groups = world(step, round_)
        rewards.append(np.mean([r.reward for group in groups for r in group.rollouts]))
        return groups

    trainer.collect = collect
    trainer.train()
    return rewards


VARIANTS = [
    {"advantage": "rloo", "loss": "gspo", "aggregation": "sequence_mean"},
    {"advantage": "gdpo", "loss": "cispo", "importance_cap": 2.0},
    {"advantage": "gigpo", "loss": "dppo_tv", "aggregation": "constant_length"},
    {"advantage": "gigpo", "turn_discount": 1.0, "dual_clip": 3.0, "entropy_target": 1.0},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_policy_learns_under_every_variant(changes):
    config = replace(
        SMALL, steps=30, scenes_per_step=4, group_size=6, updates_per_batch=1,
        micro_batch_size=None, constant_length=4, **changes,
    )  # fmt: skip
    rewards = rewards_of_a_run(config)
    assert np.mean(rewards[:5]) < 0.3
    assert np.mean(rewards[-5:]) > 0.6


def test_the_policy_learns_to_write_the_named_symbol():
    config = replace(
        SMALL, steps=40, scenes_per_step=4, group_size=6, updates_per_batch=1, micro_batch_size=None
    )
    rewards = rewards_of_a_run(config)
    assert np.mean(rewards[:5]) < 0.3
    assert np.mean(rewards[-5:]) > 0.8


def kill_in_step_six(folder: Path) -> None:
    """Train until the second micro-batch of step 6, then end as a power cut would."""
    trainer = make_trainer(folder=folder)
    real, calls = trainer.model.token_logprobs, []

    def token_logprobs(buffers, temperature=1.0):
        if trainer.step == 5:
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(buffers, temperature)

    trainer.model.token_logprobs = token_logprobs
    trainer.train()


@pytest.mark.grpo_property(10)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole = make_trainer(folder=tmp_path / "whole")
    whole.train()

    killed = subprocess.run([sys.executable, __file__, str(tmp_path / "killed")], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    # Step 5 was logged, but the last checkpoint is that of step 4.
    assert len(read_metrics(tmp_path / "killed" / "metrics.jsonl")) == 5
    resumed = make_trainer(folder=tmp_path / "killed")
    with torch.no_grad():
        for parameter in resumed.parameters:
            parameter.fill_(0.5)  # nothing of a fresh model may survive
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert resumed.resume().step == resumed.step == 4
    resumed.train()

    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for old, new in zip(
        whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True
    ):
        assert all(torch.equal(old[name], new[name]) for name in old)
    one, other = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [row["step"] for row in other] == list(range(1, 8))
    for row, twin in zip(one, other, strict=True):
        assert {k: v for k, v in row.items() if not k.startswith("time/")} == {
            k: v for k, v in twin.items() if not k.startswith("time/")
        }


def test_evaluations_that_nobody_makes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="eval_interval: expected 0 without evaluate, got 2"):
        make_trainer(replace(SMALL, eval_interval=2), tmp_path)


def test_a_run_logs_every_number_the_readers_of_a_run_look_for(tmp_path):
    config = replace(SMALL, steps=2, eval_interval=2)
    trainer = make_trainer(config, tmp_path, evaluate=lambda step: {"reward": 0.1 * step})
    trainer.train()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    wanted = {
        "reward": ["total", "accuracy"],
        "reward_std": ["accuracy"],
        "advantage": ["mean", "std", "abs"],
        "group": ["frac_informative", "frac_zero_variance", "dropped"],
        "train": ["loss", "entropy", "approx_kl", "clip_fraction", "behaviour_gap", "grad_norm"],
        "train/importance": ["ratio", "ratio_min", "ratio_max"],
        "rollout": ["dropped_truncated", "length_max", "regions", "boxes_over_truth", "turns"],
        "rollout/terminated": ["tokens_mean"],
        "time": ["collect", "update", "step", "environment", "environment_share"],
    }
    keys = {
        f"{room}{'_' if '/' in room else '/'}{name}"
        for room, names in wanted.items()
        for name in names
    }
    assert not {key for key in keys if not isinstance(first.get(key), float)}
    assert "eval/reward" not in first
    assert second["eval/reward"] == pytest.approx(0.2)
    assert second["train/learning_rate"] == pytest.approx(0.02 * 2 / 3)
    assert (tmp_path / "completions" / "step_000001.md").is_file()


def test_a_new_run_does_not_write_over_another_and_a_resume_needs_one(tmp_path):
    trainer = make_trainer(replace(SMALL, steps=1), tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint, got none there"):
        trainer.resume()
    trainer.train()
    with pytest.raises(CheckpointError, match="expected an empty folder for a new run; set resume"):
        make_trainer(SMALL, tmp_path).train()
    with pytest.raises(CheckpointError, match=r"clip_low None there, 0.1 here"):
        make_trainer(replace(SMALL, clip_low=0.1), tmp_path).resume()
    longer = make_trainer(replace(SMALL, steps=2, checkpoint_interval=1), tmp_path)
    assert longer.resume().step == 1
    longer.train()
    assert longer.step == 2


def test_a_foreign_model_is_refused_unchanged(tmp_path):
    make_trainer(replace(SMALL, steps=1), tmp_path).train()
    foreign = make_trainer(SMALL, tmp_path)
    foreign.model.head = nn.Linear(16, 9)
    before = foreign.model.embed.weight.clone()
    with pytest.raises(CheckpointError, match=r"'head.weight' of shape \(9, 16\), got \(8, 16\)"):
        foreign.resume()
    assert torch.equal(before, foreign.model.embed.weight)
    assert foreign.step == 0


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (False, "step_000001: random state: expected a CUDA device, got none"),
        (True, r"expected \(24,\) bytes for this CUDA device, got \(16,\)"),
    ],
)
def test_the_random_state_of_another_device_is_refused_untouched(
    tmp_path, monkeypatch, device, message
):
    with_gpu = rng_state() | {"cuda": [torch.zeros(16, dtype=torch.uint8)]}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "rng_state", lambda: with_gpu)
        make_trainer(replace(SMALL, steps=1), tmp_path).train()
    other = make_trainer(SMALL, tmp_path)
    weights = [parameter.clone() for parameter in other.parameters]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(24, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match=message):
        other.resume()
    assert all(torch.equal(a, b) for a, b in zip(weights, other.parameters, strict=True))
    assert (other.step, other.optimizer.state_dict()["state"]) == (0, {})


def equal(groups, rows):
    """Reward all members of these groups the same."""
    for row in rows:
        groups[row] = with_rewards(groups[row], (0.5,) * 4)
    return groups


def resampling(max_resamples=3, equal_rows=(0, 2), more_equal_rows=(1,), **changes):
    """A trainer whose first rounds hold zero-variance groups, and the rounds it asks for."""
    config = replace(
        SMALL, zero_variance_groups="resample", max_resamples=max_resamples, micro_batch_size=None,
        scenes_per_step=3, **changes,
    )  # fmt: skip
    asked = []

    def collect(step, round_):
        trainer.model.eval()
        groups = ToyWorld(trainer.model, config)(step, round_)
        groups = [with_rewards(group, (0.0, 0.25, 0.5, 0.75)) for group in groups]
        if not round_:
            return equal(groups, equal_rows)
        asked.append((step, round_))
        return equal(groups, more_equal_rows)

    trainer = make_trainer(config)
    trainer.collect = collect
    return trainer, asked


def test_further_scenes_are_collected_until_enough_groups_are_informative():
    trainer, asked = resampling()
    groups, advantages = trainer.collect_groups(5)
    # One informative group of three, then two more.
    assert asked == [(5, 1)]
    assert advantages.informative.tolist() == [False, True, False, True, False, True]
    batch = training_batch(groups, advantages, max_groups=3)
    assert len(batch.buffers) == 12
    assert batch.dropped["rollout/dropped_zero_variance"] == 12


def test_the_rounds_of_further_scenes_end_and_excess_groups_are_left_out():
    trainer, asked = resampling(max_resamples=2, equal_rows=(0, 1, 2), more_equal_rows=(0, 1, 2))
    assert len(trainer.collect_groups(1)[0]) == 9
    assert asked == [(1, 1), (1, 2)]
    trainer, asked = resampling(equal_rows=(0,), more_equal_rows=())
    groups, advantages = trainer.collect_groups(1)
    assert advantages.informative.sum() == 5
    batch = training_batch(groups, advantages, max_groups=3)
    assert len(batch.buffers) == 12
    assert batch.dropped["rollout/dropped_excess"] == 8


def test_a_step_with_enough_informative_groups_collects_no_more():
    trainer, asked = resampling(equal_rows=())
    assert len(trainer.collect_groups(1)[0]) == 3
    assert asked == []


def test_the_share_of_informative_groups_is_logged_before_any_is_left_out(tmp_path):
    trainer, _ = resampling(steps=1)
    trainer.logger = RunLogger(tmp_path, 1, print_interval=0)
    trainer.train()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["group/collected"] == 6
    assert row["group/frac_informative"] == row["group/frac_zero_variance"] == 0.5
    assert row["train/tokens"] > 0
    assert 0 < row["time/environment_share"] < 1
    spent = sum(row[f"time/{name}"] for name in ("collect", "update", "completions"))
    assert row["time/step"] == pytest.approx(spent), "the environment works beside the engine"


def test_the_entropy_target_and_a_shrunken_limit_are_part_of_the_checkpoint(tmp_path):
    config = replace(SMALL, steps=3, entropy_target=9.0, checkpoint_interval=1)
    trainer = make_trainer(config, tmp_path)
    trainer.updater.token_limit = 48
    trainer.train()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    # Before the first step no entropy is known; every step below the target adds one delta.
    weights = [row["train/entropy_weight"] for row in rows]
    assert weights == pytest.approx([0.0, 0.0001, 0.0002])
    again = make_trainer(replace(config, steps=4), tmp_path)
    again.resume()
    assert again.entropy_target.state() == trainer.entropy_target.state()
    assert again.entropy_target.weight == pytest.approx(0.0003)
    assert again.updater.token_limit == 48
    # A limit that was set anew is what counts.
    other = make_trainer(replace(config, micro_batch_tokens=64), tmp_path)
    other.resume()
    assert other.updater.token_limit == 64


def test_groups_of_the_wrong_size_are_refused():
    trainer = make_trainer()
    trainer.collect = ToyWorld(trainer.model, replace(SMALL, group_size=2))
    with pytest.raises(ValueError, match=r"expected groups of sizes \[4, 4, 4\], got \[2, 2, 2\]"):
        trainer.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_in_step_six(Path(sys.argv[1]))
