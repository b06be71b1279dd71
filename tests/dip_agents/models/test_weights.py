import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dip_agents.engines.base import Sampling
from dip_agents.engines.decoder import TextDecoder
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.models.loading import load_model, save_model
from dip_agents.models.lora import add_lora
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import (
    checkpoint_weights,
    copy_weights,
    fingerprint,
    merged_weight,
    write_checkpoint,
)
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.messages import Message

QUERY = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture
def lora(fresh_micro):
    """A micro model with a LoRA that is not zero."""
    base = fresh_micro()
    wrapped = VLM(add_lora(base.model, 8, 0), base.processor)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.trainable_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return wrapped


@pytest.fixture
def buffers(lora):
    """Two conversations with a picture each."""
    made = []
    for number in range(2):
        shade = np.full((64, 96, 3), 100 * number, np.uint8)
        buffer = TokenBuffer(lora.image_token_id)
        buffer.append_env(*lora.chat.opening([Message("user", "Find", (shade,))]))
        buffer.append_policy(lora.chat.policy_ids("<answer>[[1,2,30,40]]</answer>"), None)
        made.append(buffer)
    return made


def test_names_are_those_of_a_checkpoint_without_the_tied_head(fresh_micro, lora):
    plain = fresh_micro()
    expected = set(plain.core.state_dict()) - {"lm_head.weight"}
    assert plain.core.config.tie_word_embeddings
    assert {name for name, _ in checkpoint_weights(plain)} == expected
    assert {name for name, _ in checkpoint_weights(lora)} == expected


def test_merging_adds_scaled_b_times_a(fresh_micro, lora):
    layer = lora.core.get_submodule(QUERY)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    base = dict(checkpoint_weights(fresh_micro()))[QUERY + ".weight"]
    merged = dict(checkpoint_weights(lora))[QUERY + ".weight"]
    torch.testing.assert_close(merged, base + 2.0 * b @ a)  # lora_alpha = 2 * rank
    assert float((merged - base).detach().abs().max()) > 0.01


def test_unmerged_weights_are_those_under_the_lora(fresh_micro, lora):
    under = dict(checkpoint_weights(lora, merged=False))
    for name, tensor in checkpoint_weights(fresh_micro()):
        assert torch.equal(under[name], tensor), name


def test_merging_leaves_half_precision_weights_as_they_were(lora):
    layer = lora.core.get_submodule(QUERY).base_layer
    layer.weight.data = layer.weight.data.bfloat16()
    before = layer.weight.clone()
    for _ in range(3):
        dict(checkpoint_weights(lora))
    assert torch.equal(layer.weight, before)


@pytest.mark.grpo_property(9)
@torch.no_grad()
def test_with_its_adapter_off_a_model_is_its_base_bit_for_bit(fresh_micro, lora, buffers):
    base = fresh_micro().token_logprobs(buffers, 0.7)
    on = lora.token_logprobs(buffers, 0.7)
    with lora.model.disable_adapter():
        off = lora.token_logprobs(buffers, 0.7)
        under = [merged_weight(m) for m in _adapted(lora)]
    assert torch.equal(off.logprobs, base.logprobs)
    assert torch.equal(off.entropy, base.entropy)
    assert (on.logprobs - off.logprobs).abs().max() > 0.1  # so that the adapter matters
    assert torch.equal(lora.token_logprobs(buffers, 0.7).logprobs, on.logprobs)  # and is back on
    assert all(torch.equal(w, m.weight) for w, m in zip(under, _adapted(lora), strict=True))


@pytest.mark.grpo_property(9)
@torch.no_grad()
def test_merged_weights_give_the_logprobs_of_the_adapter(
    lora, buffers, tmp_path, minimal_prompt_rules
):
    before = {name: tensor.clone() for name, tensor in lora.state_dict().items()}
    wanted = lora.token_logprobs(buffers).logprobs
    save_model(lora, tmp_path, minimal_prompt_rules)
    saved = load_model(str(tmp_path), device="cpu", dtype="float32").vlm
    assert not any("lora_" in name for name in saved.state_dict())
    torch.testing.assert_close(saved.token_logprobs(buffers).logprobs, wanted, atol=1e-4, rtol=0)
    assert torch.equal(lora.token_logprobs(buffers).logprobs, wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora.state_dict().items())


@pytest.mark.grpo_property(9)
@torch.no_grad()
def test_the_decoder_samples_with_the_adapter_and_leaves_the_weights_alone(
    lora, toy, minimal_prompt_rules
):
    before = {name: tensor.clone() for name, tensor in lora.model.state_dict().items()}
    sampling = Sampling(1.0, 12, 200)
    groups = collect_rollouts(
        HFEngine(lora), toy, [0], 3, minimal_prompt_rules, seed=0, sampling=sampling
    )
    said = [rollout.buffer for rollout in groups[0].rollouts]
    mask = [torch.tensor(buffer.loss_mask).bool() for buffer in said]
    for row, buffer in enumerate(said):
        trainer = lora.token_logprobs(said).logprobs[row, : len(buffer)][mask[row]]
        sampler = torch.tensor(buffer.logprobs)[mask[row]]
        torch.testing.assert_close(sampler, trainer, atol=1e-4, rtol=0)
        with lora.model.disable_adapter():  # so that a forgotten adapter would show
            base = lora.token_logprobs(said).logprobs[row, : len(buffer)][mask[row]]
        assert (sampler - base).abs().max() > 0.05
    assert all(torch.equal(tensor, before[n]) for n, tensor in lora.model.state_dict().items())


@pytest.mark.grpo_property(9)
@torch.no_grad()
def test_merging_in_place_and_back_changes_neither_logprobs_nor_samples(lora, buffers):
    wanted = lora.token_logprobs(buffers).logprobs
    before = [merged_weight(module).clone() for module in _adapted(lora)]
    decoder = TextDecoder(lora)
    decoder.refresh()
    fused = decoder.layers[0].qkv.clone()
    for change in (lora.model.merge_adapter, lora.model.unmerge_adapter):
        change()
        torch.testing.assert_close(lora.token_logprobs(buffers).logprobs, wanted, atol=1e-4, rtol=0)
        for module, weight in zip(_adapted(lora), before, strict=True):
            torch.testing.assert_close(merged_weight(module), weight, atol=1e-6, rtol=0)
        decoder.refresh()
        torch.testing.assert_close(decoder.layers[0].qkv, fused, atol=1e-6, rtol=0)


def _adapted(vlm):
    found = [m for m in vlm.core.modules() if hasattr(m, "get_delta_weight")]
    assert len(found) >= 7  # every linear layer of the language part
    return found


def test_the_written_config_names_the_class(fresh_micro, tmp_path):
    """vLLM runs its generic stand-in for models whose config does not say what they are."""
    write_checkpoint(fresh_micro(), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]


def test_the_written_weights_are_those_of_the_model(lora, tmp_path):
    folder = write_checkpoint(lora, tmp_path / "model", half=True)
    written = load_file(folder / "model.safetensors")
    wanted = dict(checkpoint_weights(lora))
    assert written.keys() == wanted.keys()
    for name, tensor in written.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, wanted[name].bfloat16()), name


def test_only_the_weights_that_learn_are_taken_over(lora):
    other = VLM(copy.deepcopy(lora.model), lora.processor)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    copy_weights(lora, other)
    for name, parameter in other.model.named_parameters():
        expected = lora.model.get_parameter(name) if "lora_" in name else torch.tensor(0.0)
        assert torch.equal(parameter, expected.expand_as(parameter)), name


def test_an_engine_with_a_model_of_its_own_takes_the_weights_of_a_new_version_only(lora):
    engine = HFEngine(VLM(copy.deepcopy(lora.model), lora.processor))
    own = next(engine.vlm.trainable_parameters())
    theirs = next(lora.trainable_parameters())
    with torch.no_grad():
        own.zero_()
    engine.sync(lora, 1)
    assert torch.equal(own, theirs)
    with torch.no_grad():
        own.zero_()
    engine.sync(lora, 1)
    assert not own.any()
    engine.sync(lora, 2)
    assert torch.equal(own, theirs)


def test_a_fingerprint_tells_one_bit_and_one_name_from_another():
    state = {"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}
    same = {"b": torch.zeros(2, 2, dtype=torch.bfloat16), "a": torch.ones(3)}
    assert fingerprint(state) == fingerprint(same)
    bit = state | {"a": torch.nextafter(torch.ones(3), torch.tensor([1.0, 1.0, 2.0]))}
    swapped = {"a": state["a"][:2], "b": torch.ones(1)}, {"a": torch.ones(1), "b": state["a"][:2]}
    assert fingerprint(bit) != fingerprint(state)
    assert fingerprint(swapped[0]) != fingerprint(swapped[1])
