import numpy as np
import pytest
import torch

from dip_agents.objectives.losses import EntropyBonus, policy_loss
from dip_agents.objectives.surrogates import SurrogateInputs
from dip_agents.tokens.buffer import PlaceholderError, TokenBuffer
from dip_env.messages import Message

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


def picture(vlm, columns, rows, seed):
    side = vlm.chat.patch * vlm.chat.merge
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)


@pytest.fixture(params=FAMILIES)
def talk(request, micro):
    """Ragged conversations with zero to two crops, none of them square."""
    vlm = micro(request.param)
    buffers = []
    for b, crops in enumerate([0, 1, 2]):
        buffer = TokenBuffer(vlm.image_token_id)
        buffer.append_env(
            *vlm.chat.opening([Message("user", "Find", (picture(vlm, 4 + b, 3, b),))])
        )
        ids = vlm.chat.policy_ids("<think>2 people.</think>" * (b + 1))
        buffer.append_policy(ids, [0.0] * len(ids))
        images = tuple(picture(vlm, 1 + k, 2, 10 * b + k) for k in range(crops))
        buffer.append_env(*vlm.chat.reply(Message("user", "Crop", images)))
        ids = vlm.chat.policy_ids("<answer>[[1,2,30,40]]</answer>")
        buffer.append_policy(ids, [0.0] * len(ids))
        buffers.append(buffer)
    return vlm, buffers


def stock_logits(vlm, buffer):
    """Logits of the public forward of transformers on one row."""
    ids = torch.tensor([buffer.ids])
    return vlm.model(
        input_ids=ids,
        mm_token_type_ids=(ids == vlm.image_token_id).long(),
        pixel_values=vlm.chat.patches(buffer.images),
        image_grid_thw=torch.tensor([i.grid for i in buffer.images]),
    ).logits[0]


def test_positions_equal_get_rope_index(talk):
    vlm, buffers = talk
    for buffer in buffers:
        ids = torch.tensor([buffer.ids])
        expected, delta = vlm.model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == vlm.image_token_id).long(),
            image_grid_thw=torch.tensor([i.grid for i in buffer.images]),
        )
        places, after = vlm.positions(buffer.ids, buffer.images)
        np.testing.assert_array_equal(places, expected[:, 0].numpy())
        assert after == len(buffer) + int(delta)


@pytest.mark.grpo_property(5)
@torch.no_grad()
def test_logprobs_of_a_ragged_batch_equal_the_stock_forward_of_each_row(talk):
    vlm, buffers = talk
    out = vlm.token_logprobs(buffers, temperature=0.7)
    for row, buffer in enumerate(buffers):
        logits = stock_logits(vlm, buffer) / 0.7 + vlm.ban
        assert logits[:, logits[0].isfinite()].std() > 4  # so that an error would show
        expected = torch.log_softmax(logits, -1)
        for t, sampled in enumerate(buffer.loss_mask):
            assert bool(out.mask[row, t]) == bool(sampled)
            if sampled:
                assert out.logprobs[row, t] == pytest.approx(
                    float(expected[t - 1, buffer.ids[t]]), abs=2e-4
                )
                p = expected[t - 1].exp()
                entropy = -float((p * expected[t - 1].clamp(min=-1e9)).sum())
                assert out.entropy[row, t] == pytest.approx(entropy, abs=2e-4)
    assert not out.mask[:, 0].any()


def learned(vlm, buffers):
    """Return logprobs and the gradient of a loss that weighs every token otherwise."""
    vlm.model.zero_grad(set_to_none=True)
    out = vlm.token_logprobs(buffers)
    advantages = torch.linspace(-1, 2, out.logprobs.numel()).view_as(out.logprobs)
    old = out.logprobs.detach() + 0.1 * advantages
    inputs = SurrogateInputs(out.logprobs, old, advantages, out.mask)
    policy_loss(inputs, entropy=EntropyBonus(out.entropy, 0.1)).loss.backward()
    grads = [p.grad for p in vlm.model.parameters()]
    vlm.model.zero_grad(set_to_none=True)
    return out, grads


@pytest.mark.grpo_property(4)
def test_the_label_of_a_masked_token_changes_nothing_at_all(talk, monkeypatch):
    vlm, buffers = talk
    clean, grads = learned(vlm, buffers)
    targets = vlm.targets

    def relabelled(buffers):
        ids, mask = targets(buffers)
        return torch.where(mask, ids, (ids + 17) % 50), mask

    monkeypatch.setattr(vlm, "targets", relabelled)
    other, other_grads = learned(vlm, buffers)
    assert torch.equal(clean.logprobs, other.logprobs)
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    assert not clean.logprobs[~clean.mask].any() and not clean.entropy[~clean.mask].any()


@pytest.mark.grpo_property(4)
@pytest.mark.parametrize("turn", [0, 1])
def test_the_id_of_a_masked_token_is_context_for_all_that_follows_it(talk, turn):
    vlm, buffers = talk
    clean, grads = learned(vlm, buffers[:1])
    mask = buffers[0].loss_mask
    starts = [t for t in range(1, len(mask)) if mask[t] and not mask[t - 1]]
    changed = buffers[0].copy()
    at = starts[turn] - 2  # an environment token right before a turn of the policy
    changed.ids[at] += 1
    other, other_grads = learned(vlm, [changed])
    assert torch.equal(clean.mask, other.mask)
    before, after = slice(0, at + 1), slice(starts[turn], starts[turn] + 3)
    torch.testing.assert_close(
        clean.logprobs[:, before], other.logprobs[:, before], atol=1e-4, rtol=0
    )
    assert (clean.logprobs[:, after] - other.logprobs[:, after]).abs().min() > 1e-3
    assert not any(torch.allclose(a, b) for a, b in zip(grads[-3:], other_grads[-3:], strict=True))


@pytest.mark.grpo_property(14)
def test_a_rollout_without_policy_tokens_gives_a_zero_that_has_a_gradient(talk):
    vlm, buffers = talk
    silent = buffers[0].copy()
    silent.loss_mask = [0] * len(silent)
    out, grads = learned(vlm, [silent])
    assert out.logprobs.requires_grad and not out.mask.any()
    assert not any(grad.any() for grad in grads if grad is not None)


def test_every_weight_gets_a_gradient(talk):
    vlm, buffers = talk
    vlm.model.zero_grad()
    vlm.token_logprobs(buffers).logprobs.sum().backward()
    silent = [n for n, p in vlm.model.named_parameters() if p.grad is None or not p.grad.any()]
    vlm.model.zero_grad(set_to_none=True)
    assert silent == []


@pytest.mark.grpo_property(5)
@torch.no_grad()
def test_padding_does_not_move_a_logprob(talk):
    vlm, buffers = talk
    alone = vlm.token_logprobs(buffers[:1]).logprobs
    together = vlm.token_logprobs(buffers).logprobs[:1, : alone.shape[1]]
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


def test_a_missing_image_is_noticed(talk):
    vlm, buffers = talk
    broken = buffers[1].copy()
    broken.images.pop()
    with pytest.raises((PlaceholderError, StopIteration)):
        vlm.hidden([broken])
