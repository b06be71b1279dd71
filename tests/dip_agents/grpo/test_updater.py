"""One batch, whatever memory allows: a table of symbols that follow each other, eight of them."""

import logging
import math
import threading
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dip_agents.grpo.batch import TrainingBatch
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.updater import RolloutTooLongError, Updater, out_of_memory
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.tokens.batching import CPU_TOKENS
from dip_agents.tokens.buffer import TokenBuffer


class Logprobs(NamedTuple):
    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class Follower(nn.Module):
    """Each symbol depends on the one before; memory holds so many padded tokens at once."""

    def __init__(self, memory=math.inf, error=None):
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
        self.memory = memory
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.calls = []  # rollouts of each forward pass

    def trainable_parameters(self):
        return self.parameters()

    def token_logprobs(self, buffers, temperature=1.0):
        width = max(len(buffer.ids) for buffer in buffers)
        self.calls.append(len(buffers))
        ids = torch.zeros(len(buffers), width, dtype=torch.long)
        mask = torch.zeros(len(buffers), width, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            ids[row, : len(buffer)] = torch.tensor(buffer.ids)
            mask[row, : len(buffer)] = torch.tensor(buffer.loss_mask).bool()
        mask[:, 0] = False
        logp = torch.log_softmax(self.table[ids[:, :-1]] / temperature, -1)
        if len(buffers) * width > self.memory:
            raise self.error  # after some work, as in life
        chosen = logp.gather(2, ids[:, 1:, None])[..., 0]
        entropy = -(logp.exp() * logp).sum(-1)
        pad = (1, 0)
        return Logprobs(nn.functional.pad(chosen, pad), nn.functional.pad(entropy, pad), mask)


CONFIG = GRPOConfig(learning_rate=0.1, updates_per_batch=3, clip_low=0.05, clip_high=0.05)


def make(config=CONFIG, model=None, **more):
    model = model or Follower()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    return Updater(model, optimizer, config, **more)


def batch(lengths=(6, 5, 4, 4, 3, 2), logprob=-2.0):
    draw = torch.Generator().manual_seed(3)
    buffers = []
    for length in lengths:
        buffer = TokenBuffer(image_token_id=99)
        buffer.append_env([0])
        ids = torch.randint(0, 8, (length,), generator=draw).tolist()
        buffer.append_policy(ids, [logprob] * length)
        buffers.append(buffer)
    advantages = torch.randn(len(lengths), generator=draw)
    return TrainingBatch(buffers, advantages, [(7, i) for i in range(len(lengths))], {})


def same_but_for_rounding(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == pytest.approx(other[key], abs=1e-5, rel=1e-5), key


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_full_memory_halves_the_micro_batches_and_gives_the_same_update(error, caplog):
    plain = make(replace(CONFIG, micro_batch_tokens=21))
    wanted = plain.update(batch(), 0.1)
    tight = make(model=Follower(memory=24, error=error))
    with caplog.at_level(logging.WARNING):
        numbers = tight.update(batch(), 0.1)
    # Six rollouts of 7 tokens are 42, which fits nobody; 21 does, and the limit stays.
    assert tight.token_limit == 21
    assert tight.model.calls[0] == 6 and tight.model.calls[1:] == plain.model.calls
    assert len(caplog.records) == 1
    assert "6 rollouts of up to 7 tokens: micro_batch_tokens is 21" in caplog.text
    # Bit for bit what a run with that limit from the start does.
    assert torch.equal(plain.model.table, tight.model.table)
    assert numbers == wanted
    roomy = make()
    same_but_for_rounding(numbers, roomy.update(batch(), 0.1))
    torch.testing.assert_close(tight.model.table, roomy.model.table, atol=1e-5, rtol=0)
    assert not torch.equal(tight.model.table, Follower().table)


@pytest.mark.grpo_property(1)
def test_the_first_update_has_ratio_exactly_one_after_memory_ran_out():
    tight = make(replace(CONFIG, updates_per_batch=1), Follower(memory=24))
    numbers = tight.update(batch(), 0.1)
    assert numbers["train/ratio"] == 1.0
    assert numbers["train/ratio_deviation"] == 0.0


def test_memory_that_runs_out_in_a_later_update_keeps_the_old_logprobs():
    shrinking = Follower()
    real = shrinking.token_logprobs

    def token_logprobs(buffers, temperature=1.0):
        if len(shrinking.calls) == 1:  # the second update meets less memory
            shrinking.memory = 24
        return real(buffers, temperature)

    shrinking.token_logprobs = token_logprobs
    late, roomy = make(model=shrinking), make()
    numbers = late.update(batch(), 0.1)
    assert shrinking.calls[:2] == [6, 6]
    assert sum(shrinking.calls[2:]) == 12 and max(shrinking.calls[2:]) < 6
    same_but_for_rounding(numbers, roomy.update(batch(), 0.1))
    assert numbers["train/ratio_deviation"] > 0.01
    torch.testing.assert_close(shrinking.table, roomy.model.table, atol=1e-5, rtol=0)


def test_an_early_micro_batch_leaves_nothing_behind_when_a_later_one_fails():
    failing = Follower()
    real = failing.token_logprobs

    def token_logprobs(buffers, temperature=1.0):
        found = real(buffers, temperature)
        if len(failing.calls) == 2:
            raise ERRORS[0]
        return found

    failing.token_logprobs = token_logprobs
    config = replace(CONFIG, updates_per_batch=1, micro_batch_size=3)
    got, wanted = make(config, failing), make(config)
    same_but_for_rounding(got.update(batch(), 0.1), wanted.update(batch(), 0.1))
    torch.testing.assert_close(failing.table, wanted.model.table, atol=1e-5, rtol=0)


def test_a_rollout_that_does_not_fit_by_itself_is_named_and_nothing_moved():
    tight = make(model=Follower(memory=6))
    before = tight.model.table.clone()
    message = r"expected a single rollout to fit.*got 7 tokens \(scene 7, member 0\).*Tried to"
    with pytest.raises(RolloutTooLongError, match=message):
        tight.update(batch(), 0.1)
    assert torch.equal(tight.model.table, before)
    assert tight.model.table.grad is None


def test_other_errors_are_not_taken_for_a_full_memory():
    assert not out_of_memory(RuntimeError("expected scalar type Half"))
    broken = make(model=Follower(memory=24, error=RuntimeError("expected scalar type Half")))
    with pytest.raises(RuntimeError, match="scalar type Half"):
        broken.update(batch(), 0.1)
    assert broken.token_limit == CPU_TOKENS


@pytest.mark.grpo_property(2)
@pytest.mark.parametrize("kind", ["clipped", "gspo", "cispo", "dppo_tv"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_every_loss_under_every_aggregation_is_independent_of_micro_batches(kind, aggregation):
    config = replace(
        CONFIG, loss=kind, aggregation=aggregation, constant_length=5, importance_cap=2.0,
        max_grad_norm=1e9, entropy_weight=0.01,
    )  # fmt: skip
    tables = []
    for size in (None, 1, 2, 4):
        updater = make(replace(config, micro_batch_size=size))
        updater.update(batch(), 0.1, 0.01)
        tables.append(updater.model.table.detach())
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], atol=1e-5, rtol=0)


class Neighbour(DistributedContext):
    """One of two ranks that are threads of this process."""

    def __init__(self, index, meeting, table):
        super().__init__(index, 2)
        self.meeting, self.table = meeting, table

    def all_gather(self, value):
        self.table[self.rank] = value
        self.meeting.wait(30)
        everyone = list(self.table)
        self.meeting.wait(30)
        return everyone

    def all_reduce_gradients(self, parameters):
        for parameter in list(parameters):
            grad = parameter.grad
            everyone = self.all_gather(
                torch.zeros_like(parameter) if grad is None else grad.clone()
            )
            parameter.grad = everyone[0] + everyone[1]


@pytest.mark.grpo_property(2)
@pytest.mark.parametrize("second_has", [{1, 2, 5}, set()])
@pytest.mark.parametrize("kind", ["clipped", "gspo", "cispo", "dppo_tv"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_two_ranks_learn_what_one_learns(kind, aggregation, second_has):
    config = replace(
        CONFIG, loss=kind, aggregation=aggregation, constant_length=5, importance_cap=2.0,
        micro_batch_size=2,
    )  # fmt: skip
    alone = make(config)
    wanted = alone.update(batch(), 0.1, 0.01)
    meeting, table, found = threading.Barrier(2), [None, None], [None, None]

    def learn(index, remote):
        updater = make(config, distributed=Neighbour(index, meeting, table))
        played = replace(batch(), remote=frozenset(remote))
        found[index] = (updater.update(played, 0.1, 0.01), updater.model.table.detach())

    other = threading.Thread(target=learn, args=(1, set(range(6)) - second_has))
    other.start()
    learn(0, second_has)
    other.join()
    for numbers, weights in found:
        torch.testing.assert_close(weights, alone.model.table.detach(), atol=1e-5, rtol=0)
        same_but_for_rounding(numbers, wanted)


@pytest.mark.grpo_property(1)
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
@pytest.mark.parametrize("kind", ["clipped", "gspo", "cispo", "dppo_tv"])
def test_the_first_gradient_is_that_of_reinforce(kind, aggregation):
    config = replace(
        CONFIG, loss=kind, aggregation=aggregation, constant_length=5, updates_per_batch=1,
        max_grad_norm=1e9,
    )  # fmt: skip
    # Without logprobs of the sampler dppo_tv compares with the old policy, as the others do.
    updater, played = make(config), batch(logprob=math.nan)
    found = []
    updater.optimizer.step = lambda: found.append(updater.model.table.grad.clone())
    updater.update(played, 0.1)
    model, total = Follower(), torch.zeros(())
    for buffer, advantage in zip(played.buffers, played.advantages, strict=True):
        count = sum(buffer.loss_mask)
        weight = {"token_mean": 1 / 24, "sequence_mean": 1 / 6 / count, "constant_length": 1 / 30}
        logp = model.token_logprobs([buffer]).logprobs[0]
        total = total - weight[aggregation] * advantage * logp.sum()
    total.backward()
    torch.testing.assert_close(found[0], model.table.grad, atol=1e-7, rtol=1e-5)


def test_importance_weights_reach_the_gradient_and_stay_through_all_updates():
    # Each token was likelier for the trainer than for the sampler, most by more than the cap.
    played = batch(logprob=-9.0)
    plain = make(replace(CONFIG, updates_per_batch=1, max_grad_norm=1e9))
    capped = make(replace(CONFIG, updates_per_batch=1, max_grad_norm=1e9, importance_cap=2.0))
    grads = []
    for updater in (plain, capped):
        updater.optimizer.step = lambda u=updater: grads.append(u.model.table.grad.clone())
        numbers = updater.update(played, 0.1)
    torch.testing.assert_close(grads[1], 2 * grads[0])
    assert numbers["train/importance_truncated"] == 1.0
    assert numbers["train/importance_ratio_min"] > 2.0
    assert numbers["train/ratio"] == 1.0
    several = make(replace(CONFIG, updates_per_batch=3, importance_cap=2.0))
    assert several.update(played, 0.1)["train/importance_truncated"] == 1.0


def test_without_behaviour_logprobs_training_goes_on_and_says_so():
    played = batch(logprob=math.nan)
    blind = make(replace(CONFIG, importance_cap=2.0))
    numbers = blind.update(played, 0.1)
    assert numbers["train/behaviour_missing"] == 24
    assert "train/behaviour_gap" not in numbers
    plain = make()
    assert plain.update(batch(), 0.1)["train/behaviour_missing"] == 0
    assert torch.equal(blind.model.table, plain.model.table)


def test_the_reference_is_asked_once_however_many_updates_there_are():
    frozen, asked = Follower(), []

    def reference(buffers):
        asked.append(len(buffers))
        return frozen.token_logprobs(buffers).logprobs

    updater = make(replace(CONFIG, micro_batch_size=4, kl_weight=0.1), reference=reference)
    assert updater.update(batch(), 0.1)["train/ref_kl"] > 0
    assert sorted(asked) == [2, 4]


def test_tokens_of_one_rollout_may_have_different_advantages():
    flat, steep = batch(), batch()
    per_token = torch.zeros(6, 7)
    for row, buffer in enumerate(flat.buffers):
        per_token[row, : len(buffer)] = flat.advantages[row]
    same = replace(flat, advantages=per_token)
    per_turn = per_token.clone()
    per_turn[:, 1] *= -3
    tables = []
    for played in (flat, same, replace(steep, advantages=per_turn)):
        updater = make(replace(CONFIG, micro_batch_size=2))
        updater.update(played, 0.1)
        tables.append(updater.model.table.detach())
    assert torch.equal(tables[0], tables[1])
    assert not torch.allclose(tables[0], tables[2], atol=1e-2)
