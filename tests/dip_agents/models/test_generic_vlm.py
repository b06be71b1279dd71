import copy
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from dip_agents.engines.base import Sampling
from dip_agents.engines.choose import engine_for
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.grpo.trainer import GRPOTrainer
from dip_agents.models.generic_vlm import GenericVLM
from dip_agents.models.loading import load_model, save_model
from dip_agents.models.lora import add_lora
from dip_agents.models.rules import rules_of
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.demonstrations import Demonstration
from dip_agents.sft.loss import sft_loss
from dip_agents.sft.trainer import SFTTrainer
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.messages import Message

FAMILIES = ["llava", "idefics3", "internvl", "gemma3"]


def picture(seed, size=(48, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def conversations(vlm):
    """Ragged conversations with zero to two crops."""
    buffers = []
    for b, crops in enumerate([0, 1, 2]):
        buffer = TokenBuffer(vlm.image_token_id)
        buffer.append_env(*vlm.chat.opening([Message("user", "Find", (picture(b),))]))
        buffer.append_policy(vlm.chat.policy_ids("<think>2 people.</think>" * (b + 1)), None)
        images = tuple(picture(10 * b + k, (32, 32 + 32 * k)) for k in range(crops))
        buffer.append_env(*vlm.chat.reply(Message("user", "Crop", images)))
        buffer.append_policy(vlm.chat.policy_ids("<answer>[[1,2,30,40]]</answer>"), None)
        buffers.append(buffer)
    return buffers


@pytest.fixture
def fresh(build_generic):
    """Return a function that builds a new model of a family."""

    def build(family):
        model, processor = build_generic(tiny_texts(), family)
        return GenericVLM(model, processor)

    return build


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_of_a_ragged_batch_equal_the_stock_forward_of_each_row(generic_micro, family):
    vlm = generic_micro(family)
    buffers = conversations(vlm)
    out = vlm.token_logprobs(buffers, temperature=0.7)
    for row, buffer in enumerate(buffers):
        ids = torch.tensor([buffer.ids])
        pixels = vlm.chat.patches(buffer.images)
        extra = {"token_type_ids": (ids == vlm.image_token_id).long()} if family == "gemma3" else {}
        logits = vlm.model(
            input_ids=ids, pixel_values=pixels[None] if family == "idefics3" else pixels, **extra
        ).logits[0]
        logits = logits / 0.7 + vlm.ban
        assert logits[:, logits[0].isfinite()].std() > 4  # so that an error would show
        expected = torch.log_softmax(logits, -1)
        for t, sampled in enumerate(buffer.loss_mask):
            assert bool(out.mask[row, t]) == bool(sampled)
            if sampled:
                value = float(expected[t - 1, buffer.ids[t]])
                assert float(out.logprobs[row, t]) == pytest.approx(value, abs=2e-4)
                entropy = torch.distributions.Categorical(logits=expected[t - 1]).entropy()
                assert float(out.entropy[row, t]) == pytest.approx(float(entropy), abs=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_image_of_a_row_matters_and_those_of_other_rows_do_not(generic_micro, family):
    vlm = generic_micro(family)
    buffers = conversations(vlm)
    base = vlm.token_logprobs(buffers).logprobs
    for number in range(3):
        changed = [buffer.copy() for buffer in buffers]
        changed[2].images[number] = vlm.chat.encode_image(picture(99))
        other = vlm.token_logprobs(changed).logprobs
        torch.testing.assert_close(base[:2], other[:2], atol=1e-4, rtol=0)
        assert float((base[2] - other[2]).abs().max()) > 0.01


@torch.no_grad()
def test_the_window_and_the_two_way_attention_of_gemma_matter_here(generic_micro, monkeypatch):
    """Else the tests of that family would prove little."""
    vlm = generic_micro("gemma3")
    buffers = conversations(vlm)
    base = vlm.token_logprobs(buffers).logprobs
    monkeypatch.setattr(vlm, "_type_names", [])
    one_way = vlm.token_logprobs(buffers).logprobs
    assert float((base - one_way).abs().max()) > 0.01
    monkeypatch.undo()
    monkeypatch.setattr(vlm.core.config.text_config, "sliding_window", 1000)
    wide = vlm.token_logprobs(buffers).logprobs
    assert float((base - wide).abs().max()) > 0.01


def gradients(vlm, buffers):
    vlm.model.zero_grad()
    out = vlm.token_logprobs(buffers)
    out.logprobs.sum().backward()
    grads = {n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None}
    return out.logprobs.detach(), grads


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_activations_changes_nothing(generic_micro, family):
    base = generic_micro(family)
    vlm, saving = (GenericVLM(copy.deepcopy(base.model), base.processor) for _ in range(2))
    saving.checkpoint_activations()
    calls = []
    for name, part in saving.model.named_modules():
        if re.search(r"layers?\.0\.mlp$", name):
            part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    logprobs, grads = gradients(saving, conversations(base))
    text, vision = (sum(("vision" in name) is kind for name in calls) for kind in (False, True))
    assert (text, vision) == (2, 2)  # once more for the backward pass
    expected, plain = gradients(vlm, conversations(base))
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert grads.keys() == plain.keys()
    for name, grad in plain.items():
        assert float((grads[name] - grad).norm()) <= 1e-5 * float(grad.norm()) + 1e-7, name


def test_a_family_without_marked_layers_is_refused(generic_micro, monkeypatch):
    vlm = generic_micro("llava")
    monkeypatch.setattr(
        "dip_agents.models.generic_vlm.GradientCheckpointingLayer", type("Other", (), {})
    )
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: .* got llava without"):
        vlm.checkpoint_activations()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_raises_the_logprob_of_what_was_rewarded(
    fresh, family, toy, minimal_prompt_rules
):
    """Pay for odd first tokens: after one step they must have gained on the others."""
    vlm = fresh(family)
    engine = engine_for(vlm)
    sampling = Sampling(1.0, 8, 600)

    played = collect_rollouts(
        engine, toy, [0], 4, minimal_prompt_rules, seed=0, step=1, sampling=sampling
    )[0]
    rollouts = [
        replace(rollout, reward=float(rollout.buffer.ids[rollout.buffer.loss_mask.index(1)] % 2))
        for rollout in played.rollouts
    ]
    groups = [replace(played, rollouts=rollouts)]
    assert 0 < sum(r.reward for r in rollouts) < 4
    config = GRPOConfig(
        steps=1, scenes_per_step=1, group_size=4, learning_rate=1e-3, warmup_steps=0
    )
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}

    @torch.no_grad()
    def first_logprobs():
        out = vlm.token_logprobs([r.buffer for r in rollouts])
        return torch.stack([row[mask][0] for row, mask in zip(out.logprobs, out.mask, strict=True)])

    was = first_logprobs()
    trainer = GRPOTrainer(vlm, lambda step, round_: groups, config)
    trainer.train()
    gain = first_logprobs() - was
    paid = torch.tensor([r.reward for r in rollouts]) > 0
    assert gain[paid].mean() > gain[~paid].mean()
    moved = {name for name, tensor in vlm.state_dict().items() if not tensor.equal(before[name])}
    vision = [name for name in moved if "vision" in name]
    assert vision and len(moved) > len(vision)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_and_the_log_says_what_is_slower(fresh, family, tmp_path, caplog):
    vlm = fresh(family)
    rules = EpisodeConfig(view_size=96, crop_size=64, coordinate_format="norm1000")
    save_model(vlm, tmp_path, rules)
    with caplog.at_level(logging.WARNING):
        again = load_model(str(tmp_path), dtype="float32", device="cpu")
    told = [r.message for r in caplog.records if r.message.startswith("model family")]
    assert told == [
        f"model family {family}: no shared prefix and no fast decode loop, so sampling and updates "
        "are slower than with qwen2_vl, qwen2_5_vl, qwen3_vl"
    ]
    assert type(again.vlm) is GenericVLM
    assert again.rules == rules
    assert again.vlm.chat.settings == vlm.chat.settings
    buffers = conversations(vlm)
    with torch.no_grad():
        ours, theirs = (v.token_logprobs(buffers).logprobs for v in (vlm, again.vlm))
    assert torch.equal(ours, theirs)
    (tmp_path / "dip_env.json").unlink()
    fitting = rules_of(str(tmp_path))
    assert (fitting.view_size, fitting.crop_size, fitting.coordinate_format) == (56, 56, "norm1000")


def test_a_lora_learns_in_the_language_part_of_every_family(build_generic):
    for family in FAMILIES:
        model, processor = build_generic(tiny_texts(), family)
        lora = GenericVLM(add_lora(model, 2, seed=0), processor)
        state = lora.state_dict()
        assert len(state) == 2 * 7 * 2  # layers, linears, A and B
        assert all("lora_" in name and "vision" not in name for name in state)
        lora.load_state_dict({name: torch.ones_like(tensor) for name, tensor in state.items()})
        lora.token_logprobs(conversations(lora)).logprobs.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in lora.trainable_parameters())


def test_demonstrations_are_learned(fresh, tmp_path):
    vlm = fresh("llava")
    demonstrations = [Demonstration(buffer, [], []) for buffer in conversations(vlm)]
    before = sft_loss(vlm, demonstrations, None, 0.0, 0.0).text
    config = SFTConfig(steps=15, batch_size=3, learning_rate=3e-3, warmup_steps=1, workers=0)
    SFTTrainer(vlm, demonstrations, config).train()
    assert sft_loss(vlm, demonstrations, None, 0.0, 0.0).text < 0.8 * before
    with pytest.raises(ConfigError, match="dense_weight: expected 0"):
        SFTTrainer(vlm, demonstrations, SFTConfig(dense_weight=1.0))


class TestRefusals:
    @pytest.fixture
    def parts(self, build_generic):
        return build_generic(tiny_texts(), "llava")

    def test_a_model_without_a_placeholder_or_with_positions_in_three_axes(
        self, parts, micro, monkeypatch
    ):
        model, processor = parts
        monkeypatch.setattr(type(model.config), "attribute_map", {})  # it says image_token_index
        with pytest.raises(ConfigError, match="expected image_token_id in its config"):
            GenericVLM(model, processor)
        qwen = micro("qwen3_vl")
        with pytest.raises(ConfigError, match="family with one position per token"):
            GenericVLM(qwen.model, qwen.processor)

    def test_logits_that_are_not_lm_head_alone(self, parts):
        model, processor = parts
        model.config.text_config.final_logit_softcapping = 30.0
        with pytest.raises(ConfigError, match="logits straight from lm_head, got final_logit_soft"):
            GenericVLM(model, processor)

    def test_features_and_placeholders_that_differ_in_number(self, parts):
        model, processor = parts
        processor.num_additional_image_tokens = 0  # one placeholder too few
        with pytest.raises(ConfigError, match="do not match"):
            GenericVLM(model, processor)

    def test_a_cache_that_forgets(self, parts, monkeypatch):
        model, processor = parts
        forward = type(model.model).forward

        def forgetful(self, past_key_values=None, attention_mask=None, **inputs):
            if past_key_values is not None:
                past_key_values, attention_mask = DynamicCache(), attention_mask[:, -1:]
            return forward(
                self, past_key_values=past_key_values, attention_mask=attention_mask, **inputs
            )

        monkeypatch.setattr(type(model.model), "forward", forgetful)
        with pytest.raises(ConfigError, match="expected equal states of rows read whole and with"):
            GenericVLM(model, processor)
