import logging
import threading
import time

import numpy as np
import pytest
import torch

from dip_agents.engines.base import Chunk, Sampling
from dip_agents.engines.decoder import StockDecoder, TextDecoder
from dip_agents.engines.hf import HFEngine
from dip_agents.token_buffer import TokenBuffer
from dip_env.episode import Message

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]
SIZES = ((4, 3), (2, 5), (3, 3))  # columns and rows of cells of three prompts' images


def picture(vlm, columns, rows, seed):
    side = vlm.chat.patch * vlm.chat.merge
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)


def prompts(vlm, sizes=SIZES):
    made = []
    for seed, (columns, rows) in enumerate(sizes):
        message = Message("user", "Find" * (seed + 1), (picture(vlm, columns, rows, seed),))
        made.append(Chunk(*vlm.chat.opening([message])))
    return made


class Table:
    """Answers turn k of row r with (r + k) % 3 images, for as many turns as the row has."""

    def __init__(self, vlm, openings, repeats, turns=lambda row: 1 + row % 3, delay=0.0):
        self.vlm, self.turns, self.delay = vlm, turns, delay
        self.buffers, self.samples = [], []
        self.threads = set()
        for opening in openings:
            for _ in range(repeats):
                buffer = TokenBuffer(vlm.image_token_id)
                buffer.append_env(opening.ids, opening.images)
                self.buffers.append(buffer)
                self.samples.append([])

    def __call__(self, row, sample):
        time.sleep(self.delay * (row % 2))
        self.threads.add(threading.get_ident())
        self.samples[row].append(sample)
        self.buffers[row].append_policy(sample.ids, sample.logprobs)
        turn = len(self.samples[row])
        if turn == self.turns(row):
            return None
        images = tuple(picture(self.vlm, 1 + k, 2, 50 + row + k) for k in range((row + turn) % 3))
        ids, encoded = self.vlm.chat.reply(Message("user", "Crop" * turn, images))
        if sample.truncated:
            ids = [self.vlm.chat.eos_token_id, *ids]
        self.buffers[row].append_env(ids, encoded)
        return Chunk(ids, encoded)


def play(vlm, repeats=2, sizes=SIZES, temperature=1.0, new=8, budget=300, slots=256, **table):
    openings = prompts(vlm, sizes)
    played = Table(vlm, openings, repeats, **table)
    HFEngine(vlm, slots=slots).play(
        openings,
        repeats,
        played,
        Sampling(temperature, new, budget),
        lambda row, turn: 100 * row + turn,
    )
    return played


def logprob_gap(vlm, buffers):
    with torch.no_grad():
        out = vlm.token_logprobs(buffers)
    worst = 0.0
    for row, buffer in enumerate(buffers):
        at = [t for t, sampled in enumerate(buffer.loss_mask) if sampled]
        trainer = out.logprobs[row, at].numpy()
        worst = max(worst, float(np.abs(np.array(buffer.logprobs)[at] - trainer).max()))
    return worst


@pytest.mark.parametrize("slots", [256, 3, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_turns_with_new_images_have_the_logprobs_of_whole_forwards(micro, family, slots):
    """Prompts of three lengths, groups of two, one to three turns, 0 to 2 crops a turn."""
    vlm = micro(family)
    played = play(vlm, slots=slots)
    assert [len(samples) for samples in played.samples] == [1, 2, 3, 1, 2, 3]
    assert sum(map(len, (buffer.images for buffer in played.buffers))) > 6
    assert sum(sum(buffer.loss_mask) for buffer in played.buffers) > 60
    assert logprob_gap(vlm, played.buffers) < 1e-4


def test_a_wrong_position_or_a_lost_deepstack_would_show(micro, monkeypatch):
    vlm = micro("qwen3_vl")
    shifted = vlm.positions

    def one_dimensional(ids, images, start=0):
        _, after = shifted(ids, images, start)
        return np.broadcast_to(start + np.arange(len(ids)), (3, len(ids))), after

    monkeypatch.setattr(vlm, "positions", one_dimensional)
    wrong = play(vlm)
    monkeypatch.setattr(vlm, "positions", shifted)
    assert logprob_gap(vlm, wrong.buffers) > 0.01
    embed = vlm.embed
    monkeypatch.setattr(vlm, "embed", lambda *a: (embed(*a)[0], {}))
    wrong = play(vlm)
    monkeypatch.setattr(vlm, "embed", embed)
    assert logprob_gap(vlm, wrong.buffers) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_modules_decode_the_same(micro, family, monkeypatch, caplog):
    vlm = micro(family)
    ours = play(vlm)
    monkeypatch.setattr(vlm.core.config.text_config, "hidden_act", "gelu")  # read at loading only
    with caplog.at_level(logging.WARNING):
        stock = play(vlm)
    assert "hidden_act: expected silu, got gelu" in caplog.text
    assert [b.ids for b in stock.buffers] == [b.ids for b in ours.buffers]
    for one, other in zip(stock.buffers, ours.buffers, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_equals_generate_token_for_token(micro, family):
    vlm = micro(family)
    prompt = prompts(vlm)[0]
    ours = play(vlm, 1, SIZES[:1], temperature=0.0, new=10, turns=lambda row: 1).samples[0][0]
    ids = torch.tensor([prompt.ids])
    vlm.model.model.rope_deltas = None
    theirs = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == vlm.image_token_id).long(),
        pixel_values=torch.from_numpy(np.concatenate([i.patches for i in prompt.images])),
        image_grid_thw=torch.tensor([i.grid for i in prompt.images]),
        do_sample=False,
        max_new_tokens=10,
        suppress_tokens=torch.nonzero(vlm.ban == -torch.inf)[:, 0].tolist(),
    )[0, len(prompt.ids) :]
    assert list(ours.ids) == theirs.tolist()


def test_rows_do_not_depend_on_slots_neighbours_or_the_clock(micro):
    vlm = micro("qwen3_vl")
    usual = play(vlm)
    few = play(vlm, slots=2)
    slow = play(vlm, delay=0.02)
    ids = [[buffer.ids for buffer in played.buffers] for played in (usual, few, slow)]
    assert ids[0] == ids[1] == ids[2]
    assert ids[0][0] != ids[0][1]
    alone = play(vlm, 1, SIZES[:1])
    assert alone.buffers[0].ids == usual.buffers[0].ids


def test_the_environment_works_beside_the_engine_one_call_at_a_time(micro):
    played = play(micro("qwen3_vl"))
    assert len(played.threads) == 1
    assert threading.get_ident() not in played.threads


def test_an_error_of_the_environment_ends_the_play(micro):
    vlm = micro("qwen3_vl")

    def broken(row, sample):
        raise RuntimeError("scene 7 is gone")

    with pytest.raises(RuntimeError, match="scene 7 is gone"):
        HFEngine(vlm).play(prompts(vlm), 2, broken, Sampling(1.0, 4, 200), lambda row, turn: row)


def test_banned_tokens_are_never_drawn_and_turns_end_at_the_limit(micro):
    vlm = micro("qwen3_vl")
    played = play(vlm, 20, temperature=30.0, new=12, turns=lambda row: 1)  # anything may come
    samples = [sample for turns in played.samples for sample in turns]
    drawn = {token for sample in samples for token in sample.ids}
    assert len(drawn) > 200
    assert not drawn & set(vlm.chat.banned_ids)
    for sample in samples:
        assert sample.truncated == (sample.ids[-1] != vlm.chat.eos_token_id)
        assert len(sample.ids) == 12 or not sample.truncated


def test_a_full_row_says_nothing_and_a_chunk_too_long_is_refused(micro):
    vlm = micro("qwen3_vl")
    length = len(prompts(vlm)[0].ids)
    played = play(vlm, 1, SIZES[:1], budget=length + 3, turns=lambda row: 1)
    assert len(played.samples[0][0].ids) <= 3
    full = play(vlm, 1, SIZES[:1], budget=length, turns=lambda row: 1)
    assert full.samples[0][0].ids == () and full.samples[0][0].truncated
    with pytest.raises(ValueError, match=f"row 0: expected {length - 1} tokens, got {length}"):
        play(vlm, 1, SIZES[:1], budget=length - 1)
    with pytest.raises(ValueError, match="row 1: expected"):
        play(vlm, 2, SIZES[:1], budget=length + 8, turns=lambda row: 1 + row)


def test_a_prompt_is_prefilled_once_for_all_its_members(micro, monkeypatch):
    vlm = micro("qwen3_vl")
    text = vlm.core.model.language_model
    fed = []
    stock = text.forward
    monkeypatch.setattr(
        text, "forward", lambda **k: (fed.append(k["inputs_embeds"].shape[0]), stock(**k))[1]
    )
    for slots in (256, 2):
        play(vlm, 5, turns=lambda row: 1, slots=slots)
        assert sum(fed) == len(SIZES)
        fed.clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_both_decoders_feed_as_whole_forwards_do(micro, family):
    vlm = micro(family)
    ids = torch.randint(5, 900, (3, 6), generator=torch.Generator().manual_seed(0))
    places = torch.arange(6).expand(3, 3, 6)
    with torch.no_grad():
        whole = vlm.core.model.language_model(
            inputs_embeds=vlm.core.get_input_embeddings()(ids), position_ids=places, use_cache=False
        ).last_hidden_state
    for decoder in (TextDecoder(vlm), StockDecoder(vlm)):
        decoder.refresh()
        cache = decoder.new_cache(4, 6)
        for t in range(6):
            at = torch.full((3,), t)
            states = decoder.feed(cache, ids[:, t], at, at, t + 1)
            torch.testing.assert_close(states, whole[:, t], atol=2e-4, rtol=1e-4)
