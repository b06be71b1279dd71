import numpy as np
import pytest
import torch

from dip_agents.engines.hf import Session, _draw
from dip_agents.token_buffer import TokenBuffer
from dip_env.episode import Message

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


def picture(vlm, columns, rows, seed):
    side = vlm.chat.patch * vlm.chat.merge
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)


def prompts(vlm, sizes=((4, 3), (2, 5), (3, 3))):
    made = []
    for seed, (columns, rows) in enumerate(sizes):
        buffer = TokenBuffer(vlm.image_token_id)
        message = Message("user", "Find" * (seed + 1), (picture(vlm, columns, rows, seed),))
        buffer.append_env(*vlm.chat.opening([message]))
        made.append(buffer)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ragged_turns_with_new_images_have_the_logprobs_of_whole_forwards(micro, family):
    """Prompts of three lengths, groups of two, 0 to 2 crops for some rows, then a second turn."""
    vlm = micro(family)
    session = Session(vlm, prompts(vlm), repeats=2, capacity=200)
    buffers = [p.copy() for p in prompts(vlm) for _ in range(2)]
    for row, sample in enumerate(session.sample(range(6), range(6), 1.0, 8)):
        buffers[row].append_policy(sample.ids, sample.logprobs)
    rows, chunks = [0, 2, 3, 5], []
    for k, row in enumerate(rows):
        images = tuple(picture(vlm, 1 + k % 2, 2, 50 + k + i) for i in range(k % 3))
        ids, encoded = vlm.chat.reply(Message("user", "Crop" * (k + 1), images))
        ids = [vlm.chat.eos_token_id, *ids]
        buffers[row].append_env(ids, encoded)
        chunks.append((ids, encoded))
    session.append(rows, chunks)
    for row, sample in zip(rows, session.sample(rows, range(10, 14), 1.0, 8), strict=True):
        buffers[row].append_policy(sample.ids, sample.logprobs)
    with torch.no_grad():
        out = vlm.token_logprobs(buffers)
    for row, buffer in enumerate(buffers):
        for t, sampled in enumerate(buffer.loss_mask):
            if sampled:
                assert buffer.logprobs[t] == pytest.approx(float(out.logprobs[row, t]), abs=1e-4)
    assert out.mask.sum() > 60


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_equals_generate_token_for_token(micro, family):
    vlm = micro(family)
    buffer = prompts(vlm)[0]
    ours = Session(vlm, [buffer], 1, 100).sample([0], [0], temperature=0.0, max_new_tokens=10)[0]
    ids = torch.tensor([buffer.ids])
    vlm.model.model.rope_deltas = None
    theirs = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == vlm.image_token_id).long(),
        pixel_values=torch.from_numpy(np.concatenate([i.patches for i in buffer.images])),
        image_grid_thw=torch.tensor([i.grid for i in buffer.images]),
        do_sample=False,
        max_new_tokens=10,
        suppress_tokens=torch.nonzero(vlm._ban == -torch.inf)[:, 0].tolist(),
    )[0, len(buffer) :]
    assert list(ours.ids) == theirs.tolist()


def test_a_row_depends_on_its_own_seed_only(micro):
    vlm = micro("qwen3_vl")
    alone = Session(vlm, prompts(vlm)[:1], 1, 120).sample([0], [7], 1.0, 10)[0]
    many = Session(vlm, prompts(vlm), 2, 120).sample(range(6), [7, 1, 2, 3, 4, 5], 1.0, 10)
    assert many[0].ids == alone.ids
    assert many[1].ids != alone.ids


def test_banned_tokens_are_never_drawn_and_turns_end_at_the_limit(micro):
    vlm = micro("qwen3_vl")
    session = Session(vlm, prompts(vlm), 20, 120)
    samples = session.sample(range(60), range(60), 30.0, 12)  # so hot that anything may come
    drawn = {token for sample in samples for token in sample.ids}
    assert len(drawn) > 200
    assert not drawn & set(vlm.chat.banned_ids)
    for sample in samples:
        assert sample.truncated == (sample.ids[-1] != vlm.chat.eos_token_id)
        assert len(sample.ids) == 12 or not sample.truncated


def test_a_full_row_says_nothing_and_a_chunk_too_long_is_refused(micro):
    vlm = micro("qwen3_vl")
    prompt = prompts(vlm)[0]
    session = Session(vlm, [prompt], 1, len(prompt) + 3)
    assert len(session.sample([0], [0], 1.0, 10)[0].ids) <= 3
    with pytest.raises(ValueError, match="row 0: expected at most"):
        session.append([0], [([1] * 4, [])])
    if session.room(0) == 0:
        assert session.sample([0], [0], 1.0, 10)[0] == session.sample([0], [0])[0]


def test_draws_follow_the_distribution():
    logp = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2]])).repeat(4, 1)
    draws = torch.tensor([0.0, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    chosen, values = _draw(logp, draws)
    assert chosen == [0, 0, 2, 3]
    assert values == pytest.approx(np.log([0.5, 0.5, 0.3, 0.2]), abs=1e-6)
    assert _draw(logp[:1], None)[0] == [0]
