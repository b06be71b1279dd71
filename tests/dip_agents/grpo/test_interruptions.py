"""What a broken-off run leaves behind, on a policy of one table and a world that draws its words.

The world draws from torch's global generator, so that resuming must also restore that.
"""

import math
import signal
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dip_agents.engines.base import EngineError
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.grpo.updater import RolloutTooLongError
from dip_agents.runtime.checkpoints import latest_checkpoint, load_checkpoint
from dip_agents.runtime.distributed import LostRankError
from dip_agents.runtime.errors import NonFiniteUpdateError, error_line
from dip_agents.runtime.interrupts import StopRequestedError
from dip_agents.runtime.logger import RunLogger, read_metrics
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.result import Ending

CONFIG = GRPOConfig(
    steps=5,
    scenes_per_step=2,
    group_size=4,
    learning_rate=0.05,
    warmup_steps=0,
    updates_per_batch=2,
    checkpoint_interval=100,
    completions_interval=0,
)


class Logprobs(NamedTuple):
    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class Table(nn.Module):
    """The logits of the next symbol, one row for each symbol."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(6, 6))

    def trainable_parameters(self):
        return self.parameters()

    def token_logprobs(self, buffers, temperature=1.0):
        ids = torch.tensor([buffer.ids for buffer in buffers])
        mask = torch.tensor([buffer.loss_mask for buffer in buffers]).bool()
        logp = torch.log_softmax(self.logits[ids[:, :-1]] / temperature, -1)
        chosen = nn.functional.pad(logp.gather(2, ids[:, 1:, None])[..., 0], (1, 0))
        entropy = nn.functional.pad(-(logp.exp() * logp).sum(-1), (1, 0))
        return Logprobs(chosen, entropy, mask)


def make_trainer(folder):
    """A trainer whose ``before(step, member)`` runs before each rollout."""
    model = Table()

    def rollout(step, member):
        trainer.before(step, member)
        buffer = TokenBuffer(image_token_id=99)
        buffer.append_env([0])
        for _ in range(3):
            logp = torch.log_softmax(model.logits.detach()[buffer.ids[-1]], -1)
            token = int(torch.multinomial(logp.exp(), 1))
            buffer.append_policy([token], [float(logp[token])])
        reward = buffer.ids.count(3) / 3
        stats = RolloutStats(0, 0, 0.0, 0, truth_count=1, parse_failures=0, ending=Ending.ANSWER)
        return Rollout(buffer, reward, {"accuracy": reward}, stats)

    def collect(step, round_):
        members = range(CONFIG.group_size)
        scenes = range(CONFIG.scenes_per_step)
        return [
            RolloutGroup(scene, [rollout(step, member) for member in members]) for scene in scenes
        ]

    logger = RunLogger(folder, CONFIG.steps, print_interval=0)
    trainer = GRPOTrainer(
        model,
        collect,
        CONFIG,
        logger=logger,
        checkpoints=folder / "checkpoints",
    )
    trainer.before = lambda step, member: None
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


def assert_goes_on_as_if_nothing_had_been(folder, whole):
    trainer = make_trainer(folder)
    torch.manual_seed(99)
    trainer.resume()
    trainer.train()
    assert torch.equal(trainer.model.logits, whole.model.logits)
    state, expected = (one.optimizer.state_dict()["state"][0] for one in (trainer, whole))
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_collecting_saves_the_last_finished_step_bit_for_bit(
    tmp_path, whole, number
):
    def before(step, member):
        if (step, member) == (4, 2):  # numbers of step 4 have been drawn
            signal.raise_signal(number)

    trainer = make_trainer(tmp_path)
    trainer.before = before
    with pytest.raises(StopRequestedError, match=rf"{number.name} at step 4, col.*\n.*000003"):
        trainer.train()
    saved = load_checkpoint(tmp_path / "checkpoints")
    assert saved.step == 3
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


def test_a_signal_while_weights_move_waits_for_the_end_of_the_step(tmp_path, whole):
    trainer = make_trainer(tmp_path)
    step = trainer.optimizer.step

    def signalled():
        if trainer.updater.moves == 3:  # the first of two updates of step 2
            signal.raise_signal(signal.SIGTERM)
        step()

    trainer.optimizer.step = signalled
    with pytest.raises(StopRequestedError, match="stopped by SIGTERM at step 2, "):
        trainer.train()
    assert load_checkpoint(tmp_path / "checkpoints").step == trainer.step == 2
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


def lose_a_rank(*arguments):
    raise LostRankError("rank 0 of 2 lost another rank at step 4, update (gone)")


def test_a_rank_lost_before_the_weights_move_costs_no_finished_step(tmp_path, whole):
    trainer = make_trainer(tmp_path)
    trainer.before = lambda step, member: (
        step < 4 or setattr(trainer.updater.distributed, "all_reduce_gradients", lose_a_rank)
    )
    with pytest.raises(LostRankError, match=r"\(gone\)\nthe last complete checkpoint is .*_000003"):
        trainer.train()
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


def not_finite(trainer):
    trainer.updater.reference = lambda buffers: torch.full((len(buffers), 4), math.nan)
    trainer.updater.config = replace(CONFIG, kl_weight=0.1)


def too_long(trainer):
    def token_logprobs(buffers, temperature=1.0):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate")

    trainer.model.token_logprobs = token_logprobs


def engine_fails(trainer):
    torch.randn(3)  # drawn by the step that cannot go on
    raise EngineError("http://127.0.0.1: expected status 200, got 500")


@pytest.mark.parametrize(
    ("fail", "kind", "words"),
    [
        (not_finite, NonFiniteUpdateError, "expected a finite loss"),
        (too_long, RolloutTooLongError, "expected a single rollout to fit into memory"),
        (engine_fails, EngineError, "http://127.0.0.1: expected status 200, got 500"),
    ],
)
def test_a_step_that_cannot_be_done_costs_none_of_those_before(tmp_path, whole, fail, kind, words):
    trainer = make_trainer(tmp_path)
    trainer.before = lambda step, member: step < 4 or fail(trainer)
    with pytest.raises(kind) as found:
        trainer.train()
    assert type(found.value) is kind
    message, saved = error_line(found.value), tmp_path / "checkpoints" / "step_000003"
    assert message.startswith(words) and "\n" not in message
    assert ("; at step 4; " in message) == (kind is NonFiniteUpdateError)
    assert message.endswith(
        f"; the last complete checkpoint is {saved}: go on from there with resume"
    )
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


def test_a_second_update_that_is_not_finite_saves_no_half_done_step(tmp_path):
    trainer = make_trainer(tmp_path)
    move = trainer.optimizer.step

    def broken():
        move()
        if trainer.step == 3:
            trainer.model.logits.data.fill_(math.nan)

    trainer.optimizer.step = broken
    with pytest.raises(NonFiniteUpdateError, match="there is no checkpoint yet"):
        trainer.train()
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_weights_that_have_begun_to_move_are_not_saved(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.before = lambda step, member: (
        step < 4 or setattr(trainer.optimizer, "step", lose_a_rank)
    )
    with pytest.raises(LostRankError, match="there is no checkpoint yet"):
        trainer.train()
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_nothing_is_saved_twice_or_before_the_first_step(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.before = lambda step, member: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StopRequestedError, match="step 1, collect\nthere is no checkpoint yet"):
        trainer.train()

    trainer = make_trainer(tmp_path)
    trainer.config = replace(CONFIG, checkpoint_interval=1)
    trainer.before = lambda step, member: step < 3 or signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StopRequestedError, match=r"step 3, collect\n.*step_000002: "):
        trainer.train()
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step_*"))] == [
        "step_000001",
        "step_000002",
    ]
