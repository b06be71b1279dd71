import numpy as np
import pytest
import torch

from dip_agents.engines.base import Chunk, Sampling
from dip_agents.engines.generic import GenericEngine
from dip_agents.tokens.buffer import TokenBudgetError, TokenBuffer
from dip_env.messages import Message

FAMILIES = ["llava", "idefics3", "internvl", "gemma3"]


def picture(seed, size=(48, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def prompts(vlm, count=3):
    """Prompts of different lengths; prompt p shows p % 2 + 1 images."""
    made = []
    for p in range(count):
        images = tuple(picture(10 * p + k, (32 * (1 + k), 64)) for k in range(p % 2 + 1))
        made.append(Chunk(*vlm.chat.opening([Message("user", "Find " * (p + 1), images)])))
    return made


class Table:
    """Answers turn k of row r with (r + k) % 3 images, for 1 + r % 3 turns."""

    def __init__(self, vlm, openings, repeats, turns):
        self.vlm, self.turns = vlm, turns
        self.buffers, self.samples = [], []
        for opening in openings:
            for _ in range(repeats):
                buffer = TokenBuffer(vlm.image_token_id)
                buffer.append_env(opening.ids, opening.images)
                self.buffers.append(buffer)
                self.samples.append([])

    def __call__(self, row, sample):
        self.samples[row].append(sample)
        self.buffers[row].append_policy(sample.ids, sample.logprobs)
        turn = len(self.samples[row])
        if turn == self.turns(row):
            return None
        images = tuple(picture(50 + row + k, (32, 64)) for k in range((row + turn) % 3))
        ids, encoded = self.vlm.chat.reply(Message("user", "Crop" * turn, images))
        if sample.truncated:
            ids = [self.vlm.chat.eos_token_id, *ids]
        self.buffers[row].append_env(ids, encoded)
        return Chunk(ids, encoded)


def play(
    vlm, repeats=2, count=3, temperature=1.0, new=6, budget=400, rows=32, turns=lambda r: 1 + r % 3
):
    openings = prompts(vlm, count)
    table = Table(vlm, openings, repeats, turns)
    engine = GenericEngine(vlm, rows=rows)
    sampling = Sampling(temperature, new, budget)
    engine.play(openings, repeats, table, sampling, lambda row, turn: 100 * row + turn)
    return table


def logprob_gap(vlm, buffers, temperature=1.0):
    with torch.no_grad():
        out = vlm.token_logprobs(buffers, temperature)
    worst = 0.0
    for row, buffer in enumerate(buffers):
        at = [t for t, sampled in enumerate(buffer.loss_mask) if sampled]
        trainer = out.logprobs[row, at].numpy()
        worst = max(worst, float(np.abs(np.array(buffer.logprobs)[at] - trainer).max()))
    return worst


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_turns_with_new_images_have_the_logprobs_of_the_trainer(
    generic_micro, family, temperature
):
    """Prompts of three lengths, groups of two, one to three turns, 0 to 2 crops a turn."""
    vlm = generic_micro(family)
    table = play(vlm, temperature=temperature)
    assert [len(samples) for samples in table.samples] == [1, 2, 3, 1, 2, 3]
    assert [len(buffer.images) for buffer in table.buffers] == [1, 3, 3, 2, 3, 2]
    assert sum(sum(buffer.loss_mask) for buffer in table.buffers) > 40
    assert logprob_gap(vlm, table.buffers, temperature) < 1e-4


def test_a_lost_image_or_a_wrong_position_would_show(generic_micro, monkeypatch):
    vlm = generic_micro("llava")
    forward = vlm._forward

    def forgetful(ids, mask, images, use_cache):
        if use_cache:
            images = [images[0]] * len(images)
        return forward(ids, mask, images, use_cache)

    monkeypatch.setattr(vlm, "_forward", forgetful)
    assert logprob_gap(vlm, play(vlm).buffers) > 0.01
    monkeypatch.undo()
    extend = vlm.extend

    def late(ids, mask, cache):
        states, _, cache = extend(ids, torch.ones_like(mask), cache)
        return states, torch.cat([mask, torch.ones_like(mask[:, :1])], 1), cache

    monkeypatch.setattr(vlm, "extend", late)
    assert logprob_gap(vlm, play(vlm).buffers) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_their_neighbours(generic_micro, family):
    vlm = generic_micro(family)
    usual, few, alone = play(vlm), play(vlm, rows=2), play(vlm, 1, 1)
    ids = [[buffer.ids for buffer in table.buffers] for table in (usual, few, alone)]
    assert ids[0] == ids[1]
    assert ids[0][0] == ids[2][0]
    said = [samples[0].ids for samples in usual.samples]
    assert any(said[row] != said[row + 1] for row in (0, 2, 4))  # members of a group differ


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_turns_equal_generate_token_for_token(generic_micro, family):
    vlm = generic_micro(family)
    prompt = prompts(vlm)[1]
    ours = play(vlm, 1, 2, temperature=0.0, new=8, turns=lambda row: 1).samples[1][0]
    ids = torch.tensor([prompt.ids])
    pixels = vlm.chat.patches(prompt.images)
    extra = {"token_type_ids": (ids == vlm.image_token_id).long()} if family == "gemma3" else {}
    theirs = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels if vlm.chat.pixel_axes == 4 else pixels[None],
        do_sample=False,
        max_new_tokens=8,
        suppress_tokens=torch.nonzero(vlm.ban == -torch.inf)[:, 0].tolist(),
        **extra,
    )[0, len(prompt.ids) :]
    assert list(ours.ids) == theirs.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_banned_tokens_are_never_drawn_and_turns_end_at_the_limit(generic_micro, family):
    vlm = generic_micro(family)
    table = play(vlm, 20, 1, temperature=30.0, new=12, turns=lambda row: 1)  # anything may come
    samples = [sample for turns in table.samples for sample in turns]
    drawn = {token for sample in samples for token in sample.ids}
    assert len(drawn) > 150
    banned = set(torch.nonzero(vlm.ban == -torch.inf)[:, 0].tolist())
    assert {vlm.image_token_id, len(vlm.processor.tokenizer)} <= banned
    assert vlm.chat.eos_token_id not in banned
    assert not drawn & banned
    for sample in samples:
        assert sample.truncated == (sample.ids[-1] != vlm.chat.eos_token_id)
        assert len(sample.ids) == 12 or not sample.truncated


def test_a_full_row_generates_nothing_and_a_chunk_too_long_is_refused(generic_micro):
    vlm = generic_micro("llava")
    length = len(prompts(vlm)[0].ids)
    near = play(vlm, 1, 1, budget=length + 3, turns=lambda row: 1)
    assert len(near.samples[0][0].ids) <= 3
    full = play(vlm, 1, 1, budget=length, turns=lambda row: 1)
    assert full.samples[0][0].ids == () and full.samples[0][0].truncated
    with pytest.raises(
        TokenBudgetError,
        match=f"token_budget: expected at least {length} for row 0, got {length - 1}",
    ):
        play(vlm, 1, 1, budget=length - 1)
    with pytest.raises(TokenBudgetError, match=r"token_budget: expected .* for row 1"):
        play(vlm, 2, 1, budget=length + 8, turns=lambda row: 1 + row)
