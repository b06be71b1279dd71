import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from dip_agents.engines import decoder as decoders
from dip_agents.engines import hf
from dip_agents.engines.base import Chunk, Sampling
from dip_agents.engines.decoder import StockDecoder, TextDecoder, UnsupportedTextModelError
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.tokens.buffer import TokenBudgetError, TokenBuffer
from dip_env.messages import Message

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


class FedTokens:
    """Keeps, in a layer of the cache that no model reads, what was fed for each key and value.

    Keys move between slots, are copied to members of a group and overwritten by later rows; what
    is kept here moves with them, so at the end of each turn it tells what that row attends to.
    Tokens are recognised by the vectors the model gets: an id for a row of the embedding table,
    and numbers from ``len(table)`` on for the features of the images, in order.
    """

    def __init__(self, vlm, monkeypatch):
        self.vlm, self.images, self.turns = vlm, [], []
        self.table = vlm.core.get_input_embeddings().weight.detach()
        real = decoders.SlotCache
        monkeypatch.setattr(decoders, "SlotCache", lambda layers, *rest: real(layers + 1, *rest))
        text = vlm.core.model.language_model
        forward, feed, end_turn = text.forward, TextDecoder.feed, hf._Play._end_turn

        def whole(**inputs):
            cache = inputs["past_key_values"]
            tokens = self._recognised(inputs["inputs_embeds"])
            cache.store[-1, 0, cache._rows[:, None], 0, cache._columns, 0] = tokens.float()
            return forward(**inputs)

        def step(decoder, cache, ids, positions, columns, width):
            cache.store[-1, 0, torch.arange(len(ids)), 0, columns, 0] = ids.float()
            return feed(decoder, cache, ids, positions, columns, width)

        def ended(play, row):
            # The token sampled last is fed with what follows it.
            fed = play.cache.store[-1, 0, row.slot, 0, : row.length, 0].long().tolist()
            self.turns.append((row.number, row.turn, fed, row.ids[-1:]))
            end_turn(play, row)

        monkeypatch.setattr(text, "forward", whole)
        monkeypatch.setattr(TextDecoder, "feed", step)
        monkeypatch.setattr(hf._Play, "_end_turn", ended)

    def _vectors(self):
        features = self.vlm.features_of(self.images)
        return torch.cat([self.table, *(features[image.key][0] for image in self.images)])

    def _recognised(self, embeds):
        exact = "donot_use_mm_for_euclid_dist"
        far, nearest = torch.cdist(embeds, self._vectors(), compute_mode=exact).min(-1)
        assert far.max() < 1e-4, "a vector that is neither a token nor a feature of an image"
        return nearest

    def knows(self, images):
        """Take note of images before they are fed."""
        known = {image.key for image in self.images}
        self.images += {image.key: image for image in images if image.key not in known}.values()

    def spelled(self, buffer):
        """Return the ids of a buffer with each placeholder as the feature that belongs there."""
        starts, at = {}, len(self.table)
        for image in self.images:
            starts[image.key] = at
            at += image.tokens
        features = (starts[i.key] + k for i in buffer.images for k in range(i.tokens))
        return [next(features) if i == buffer.image_token_id else i for i in buffer.ids]


@pytest.mark.grpo_property(6)
@pytest.mark.parametrize("slots", [256, 3, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_row_attends_to_is_its_buffer_token_by_token(
    micro, toy, minimal_prompt_rules, family, slots, monkeypatch
):
    """Looks, refusals and truncated turns are prescribed; the rest of the way is the real one."""
    vlm = micro(family)
    rules = replace(minimal_prompt_rules, size_multiple=vlm.chat.patch * vlm.chat.merge)
    look, answer = "<look>[[5,5,50,60],[40,20,110,90]]</look>", "<answer>[[1,2,30,40]]</answer>"
    scripts = [[look, answer], ["what?", look, answer], [look, "so", "..."], [answer]]
    limit = max(len(vlm.chat.policy_ids(text)) for text in (look, answer)) + 1
    scripts[1][0] = "a turn cut at its limit " * limit
    fed, speaking = FedTokens(vlm, monkeypatch), []
    encode, drawn = vlm.chat.encode_image, hf._Play._draw

    def encode_image(pixels):
        fed.knows([image := encode(pixels)])
        return image

    def draw_for(play, rows, states):
        speaking[:] = rows
        return drawn(play, rows, states)

    def draw(*_):
        ids = [vlm.chat.policy_ids(scripts[r.number % 4][r.turn])[len(r.ids)] for r in speaking]
        return ids, [0.0] * len(ids)

    monkeypatch.setattr(vlm.chat, "encode_image", encode_image)
    monkeypatch.setattr(hf._Play, "_draw", draw_for)
    monkeypatch.setattr(hf, "draw", draw)
    sampling = Sampling(1.0, limit, 600)
    groups = collect_rollouts(
        HFEngine(vlm, slots=slots), toy, [0, 1], 4, rules, seed=0, sampling=sampling
    )
    buffers = [rollout.buffer for group in groups for rollout in group.rollouts]
    assert [len(buffer.images) for buffer in buffers] == [3, 3, 3, 1] * 2
    assert len(fed.turns) == sum(rollout.stats.turns for g in groups for rollout in g.rollouts)
    for row, buffer in enumerate(buffers):
        spelled, mask = fed.spelled(buffer), [*buffer.loss_mask, 0]
        closed = [vlm.chat.eos_token_id] * 2
        assert closed not in map(list, pairwise(buffer.ids))  # a turn is closed once
        ends = [t for t in range(len(buffer)) if mask[t] and not mask[t + 1]]
        turns = sorted(turn for turn in fed.turns if turn[0] == row)
        assert [[*before, *last] for _, _, before, last in turns] == [
            spelled[: end + 1] for end in ends
        ]


@pytest.mark.grpo_property(8)
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
        pixel_values=vlm.chat.patches(prompt.images),
        image_grid_thw=torch.tensor([i.grid for i in prompt.images]),
        do_sample=False,
        max_new_tokens=10,
        suppress_tokens=torch.nonzero(vlm.ban == -torch.inf)[:, 0].tolist(),
    )[0, len(prompt.ids) :]
    assert list(ours.ids) == theirs.tolist()


@pytest.mark.grpo_property(11)
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


def test_the_environment_works_one_call_at_a_time_and_where_it_works_changes_nothing(
    micro, monkeypatch
):
    at_once = play(micro("qwen3_vl"))
    assert at_once.threads == {threading.get_ident()}
    # As on a GPU.
    monkeypatch.setattr(hf, "environment_executor", lambda _: ThreadPoolExecutor(1))
    beside = play(micro("qwen3_vl"))
    assert len(beside.threads) == 1
    assert threading.get_ident() not in beside.threads
    assert beside.samples == at_once.samples


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


def test_a_full_row_generates_nothing_and_a_chunk_too_long_is_refused(micro):
    vlm = micro("qwen3_vl")
    length = len(prompts(vlm)[0].ids)
    played = play(vlm, 1, SIZES[:1], budget=length + 3, turns=lambda row: 1)
    assert len(played.samples[0][0].ids) <= 3
    full = play(vlm, 1, SIZES[:1], budget=length, turns=lambda row: 1)
    assert full.samples[0][0].ids == () and full.samples[0][0].truncated
    with pytest.raises(
        TokenBudgetError,
        match=f"token_budget: expected at least {length} for row 0, got {length - 1}",
    ):
        play(vlm, 1, SIZES[:1], budget=length - 1)
    with pytest.raises(TokenBudgetError, match=r"token_budget: expected .* for row 1"):
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
    for either in (TextDecoder(vlm), StockDecoder(vlm)):
        either.refresh()
        cache = either.new_cache(4, 6)
        for t in range(6):
            at = torch.full((3,), t)
            states = either.feed(cache, ids[:, t], at, at, t + 1)
            torch.testing.assert_close(states, whole[:, t], atol=2e-4, rtol=1e-4)


def test_the_text_model_of_qwen2_vl_is_decoded_fast_as_well():
    text = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4},
    }
    vision = {"depth": 1, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64}
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    ).eval()
    ids = torch.randint(0, 128, (3, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        whole = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(ids),
            position_ids=torch.arange(6).expand(3, 3, 6),
            use_cache=False,
        ).last_hidden_state
    vlm = SimpleNamespace(
        core=model, autocast=None, ban=torch.zeros(128), device=torch.device("cpu")
    )
    decoder = TextDecoder(vlm)
    decoder.refresh()
    cache = decoder.new_cache(3, 6)
    for t in range(6):
        at = torch.full((3,), t)
        states = decoder.feed(cache, ids[:, t], at, at, t + 1)
        torch.testing.assert_close(states, whole[:, t], atol=1e-4, rtol=1e-4)


def test_dora_and_biases_are_left_to_the_stock_modules(fresh_micro):
    vlm = fresh_micro()
    attention = vlm.core.model.language_model.layers[1].self_attn
    attention.o_proj = torch.nn.Linear(64, 64)
    with pytest.raises(UnsupportedTextModelError, match="o_proj: expected no bias, got one"):
        TextDecoder(vlm)
    vlm = fresh_micro()
    vlm.model = get_peft_model(vlm.model, LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(UnsupportedTextModelError, match="q_proj: expected plain LoRA, got DoRA"):
        TextDecoder(vlm)
