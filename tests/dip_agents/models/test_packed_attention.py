import copy
import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dip_agents.models import packed_attention
from dip_agents.models.vlm import VLM
from dip_agents.tokens import positions
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.packing import packed_tokens
from dip_env.messages import Message

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


def picture(vlm, columns, rows, seed):
    side = vlm.chat.patch * vlm.chat.merge
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)


def rollouts(vlm):
    """Groups of 3, 1 and 2 in mixed order: prompts of unlike length, ragged turns, own crops."""
    made = {}
    for scene, members in enumerate([3, 1, 2]):
        text = "Find people " * (scene + 1)
        opening = vlm.chat.opening([Message("user", text, (picture(vlm, 3 + scene, 2, scene),))])
        for member in range(members):
            buffer = TokenBuffer(vlm.image_token_id)
            buffer.append_env(*opening)
            ids = vlm.chat.policy_ids("<think>2 people.</think>" * (member + 1) + str(scene))
            buffer.append_policy(ids, None)
            crops = tuple(picture(vlm, 1 + k, 2, 10 * member + k) for k in range(member))
            buffer.append_env(*vlm.chat.reply(Message("user", "Crop", crops)))
            buffer.append_policy(vlm.chat.policy_ids(f"<answer>{member}</answer>"), None)
            made[scene, member] = buffer
    order = [(2, 0), (0, 1), (1, 0), (0, 2), (2, 1), (0, 0)]
    return [made[place] for place in order]


@contextmanager
def plain(vlm):
    """Let each rollout repeat its prompt, under SDPA of transformers."""
    config = vlm.core.model.language_model.config
    config._attn_implementation, vlm.shares_prefix = "sdpa", False
    try:
        yield
    finally:
        config._attn_implementation, vlm.shares_prefix = packed_attention.NAME, True


def learn(vlm, buffers):
    """Return logprobs and the gradient of an uneven sum of them."""
    vlm.model.zero_grad(set_to_none=True)
    out = vlm.token_logprobs(buffers)
    weights = torch.linspace(-1, 2, out.logprobs.numel()).view_as(out.logprobs)
    (out.logprobs * weights).sum().backward()
    grads = {n: p.grad for n, p in vlm.model.named_parameters() if p.requires_grad}
    vlm.model.zero_grad(set_to_none=True)
    return out.logprobs.detach(), grads


def errors(vlm, buffers):
    """Return the largest logprob difference to plain batching and relative ones by parameter."""
    shared, grads = learn(vlm, buffers)
    with plain(vlm):
        expected, plain_grads = learn(vlm, buffers)
    assert all(grad is not None and grad.any() for grad in plain_grads.values())
    relative = {
        name: float((grads[name] - grad).norm() / grad.norm()) for name, grad in plain_grads.items()
    }
    return float((shared - expected).abs().max()), relative


@pytest.fixture(params=FAMILIES)
def vlm(request, micro):
    return micro(request.param)


@pytest.mark.grpo_property(5)
def test_logprobs_and_every_gradient_equal_those_of_plain_batching(vlm):
    buffers = rollouts(vlm)
    assert packed_tokens(buffers) < sum(map(len, buffers)) - 40
    difference, relative = errors(vlm, buffers)
    assert difference < 1e-4
    assert max(relative.values()) < 1e-5
    towers = {name.split(".")[1] for name in relative}
    assert towers == {"visual", "language_model"}
    assert vlm.vision.has_deepstack == any("deepstack" in name for name in relative)


@pytest.mark.grpo_property(5)
@pytest.mark.parametrize("members", [[0], [0, 4], [1, 3, 5]])
def test_one_group_or_one_rollout_is_exact_too(vlm, members):
    difference, relative = errors(vlm, [rollouts(vlm)[i] for i in members])
    assert difference < 1e-4
    assert max(relative.values()) < 1e-5


@torch.no_grad()
def test_dropped_deepstack_would_be_seen(micro, monkeypatch):
    vlm = micro("qwen3_vl")
    expected = vlm.token_logprobs(rollouts(vlm)).logprobs
    embed = vlm.embed
    monkeypatch.setattr(vlm, "embed", lambda *args: (embed(*args)[0], {}))
    assert (vlm.token_logprobs(rollouts(vlm)).logprobs - expected).abs().max() > 1


@torch.no_grad()
def test_wrong_positions_of_branches_would_be_seen(vlm, monkeypatch):
    buffers = rollouts(vlm)
    expected = vlm.token_logprobs(buffers).logprobs
    original = positions.token_positions
    monkeypatch.setattr(positions, "token_positions", lambda *args: original(*args[:4], 0))
    assert (vlm.token_logprobs(buffers).logprobs - expected).abs().max() > 1


@torch.no_grad()
def test_a_branch_of_another_prefix_would_be_seen(vlm, monkeypatch):
    buffers = rollouts(vlm)
    expected = vlm.token_logprobs(buffers).logprobs
    original = packed_attention.Layout.to

    def shuffled(self, device):
        layout = original(self, device)
        layout.parents.copy_(layout.parents.flip(0))
        return layout

    monkeypatch.setattr(packed_attention.Layout, "to", shuffled)
    assert (vlm.token_logprobs(buffers).logprobs - expected).abs().max() > 1


@torch.no_grad()
def test_a_common_prefix_goes_through_the_model_once(vlm):
    buffers, seen = rollouts(vlm), []
    layer = vlm.core.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    vlm.token_logprobs(buffers)
    hook.remove()
    assert seen == [(1, packed_tokens(buffers))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["ours", "transformers"])
def test_recomputing_activations_changes_nothing(micro, family, how):
    vlm = micro(family)
    saving = VLM(copy.deepcopy(vlm.model), vlm.processor)
    if how == "ours":
        saving.checkpoint_activations()
    else:
        saving.model.gradient_checkpointing_enable({"use_reentrant": False})
        saving.model.train()
    calls = []
    mlp = saving.core.model.language_model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    logprobs, grads = learn(saving, rollouts(vlm))
    assert len(calls) == 2
    expected, plain_grads = learn(vlm, rollouts(vlm))
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert grads.keys() == plain_grads.keys()
    for name, grad in plain_grads.items():
        assert float((grads[name] - grad).norm() / grad.norm()) < 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_learns_the_same(micro, family):
    from dip_agents.models.lora import add_lora

    base = micro(family)
    lora = VLM(add_lora(copy.deepcopy(base.model), 2, seed=0), base.processor)
    with torch.no_grad():
        for name, parameter in lora.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    difference, relative = errors(lora, rollouts(lora))
    assert difference < 1e-4
    assert max(relative.values()) < 1e-5
    assert relative and all("lora_" in name for name in relative)


def test_under_bf16_autocast_it_is_as_close_to_fp32_as_plain_batching(vlm):
    buffers = rollouts(vlm)
    exact, _ = learn(vlm, buffers)
    half = VLM(vlm.model, vlm.processor, torch.bfloat16)
    shared, grads = learn(half, buffers)
    with plain(half):
        unshared, plain_grads = learn(half, buffers)
    assert (shared - exact).abs().mean() < 1.2 * (unshared - exact).abs().mean()
    cosine = torch.cosine_similarity(
        *(torch.cat([g.flatten() for g in each.values()]) for each in (grads, plain_grads)), dim=0
    )
    assert cosine > 0.98


@torch.no_grad()
def test_another_attention_is_left_alone_and_the_log_says_once_what_that_costs(
    micro, caplog, monkeypatch
):
    base = micro("qwen3_vl")
    expected = base.token_logprobs(rollouts(base)).logprobs
    config = base.core.model.language_model.config
    monkeypatch.setattr(config, "_attn_implementation_internal", "eager")
    vlm = VLM(base.model, base.processor)
    assert config._attn_implementation == "eager"
    assert not vlm.shares_prefix
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            out = vlm.token_logprobs(rollouts(vlm))
    torch.testing.assert_close(out.logprobs, expected, atol=1e-4, rtol=0)
    assert [record.message for record in caplog.records] == [
        "attention is 'eager': expected 'sdpa', so each rollout repeats the prompt of its group"
    ]


def test_the_attention_does_not_get_into_a_saved_config(micro):
    config = micro("qwen3_vl").core.config
    assert packed_attention.NAME not in config.to_json_string(use_diff=False)
