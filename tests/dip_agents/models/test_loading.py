import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2VLConfig

from dip_agents.models.loading import load_model, save_model, vision_tower
from dip_agents.models.rules import TINY_RULES, read_rules, rules_of
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.messages import Message


def test_a_saved_model_comes_back_with_its_rules(fresh_micro, tmp_path, minimal_prompt_rules):
    vlm = fresh_micro()
    save_model(vlm, tmp_path, minimal_prompt_rules)
    again = load_model(str(tmp_path), dtype="float32")
    assert again.rules == rules_of(str(tmp_path)) == minimal_prompt_rules
    assert again.trained
    for name, tensor in vlm.state_dict().items():
        assert torch.equal(tensor, again.vlm.state_dict()[name]), name


def test_a_lora_is_merged_into_what_is_saved(fresh_micro, tmp_path, minimal_prompt_rules):
    save_model(fresh_micro(), tmp_path / "base", minimal_prompt_rules)
    lora = load_model(str(tmp_path / "base"), lora_rank=2, dtype="float32").vlm
    learns = [n for n, p in lora.model.named_parameters() if p.requires_grad]
    assert learns and all("lora_" in n and "language_model" in n for n in learns)
    with torch.no_grad():
        for parameter in lora.trainable_parameters():
            parameter.fill_(0.1)
    save_model(lora, tmp_path / "merged", minimal_prompt_rules)
    merged = load_model(str(tmp_path / "merged"), dtype="float32").vlm
    base = load_model(str(tmp_path / "base"), dtype="float32").vlm
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    # Rank 2, alpha 4: each weight moves by 2 * (0.1 * 0.1 + 0.1 * 0.1).
    difference = merged.state_dict()[name] - base.state_dict()[name]
    torch.testing.assert_close(difference, torch.full_like(difference, 0.04), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_frozen_vision_tower_learns_nothing_and_changes_no_other_gradient(
    family, micro, tmp_path, minimal_prompt_rules
):
    save_model(micro(family), tmp_path, minimal_prompt_rules)
    chat = micro(family).chat
    side = 2 * chat.patch * chat.merge
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    gradients = []
    for frozen in (False, True):
        vlm = load_model(str(tmp_path), dtype="float32", freeze_vision=frozen).vlm
        buffer = TokenBuffer(vlm.image_token_id)
        buffer.append_env(*vlm.chat.opening([Message("user", "1", (pixels,))]))
        buffer.append_policy([5, 6, 7], [0.0] * 3)
        vlm.token_logprobs([buffer]).logprobs.sum().backward()
        gradients.append(
            {name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None}
        )
    whole, language = gradients
    assert {name for name in whole if "visual" not in name} == set(language) < set(whole)
    for name, gradient in language.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_a_model_without_a_vision_tower_has_none_to_freeze():
    config = Qwen2Config(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"freeze_vision: .* got Qwen2ForCausalLM"):
        vision_tower(Qwen2ForCausalLM(config))


def test_random_weights_may_not_be_frozen():
    with pytest.raises(ConfigError, match="freeze_vision: expected a trained model, got tiny-unt"):
        load_model("tiny-untrained", device="cpu", freeze_vision=True)


def test_an_untrained_tiny_model_says_so():
    loaded = load_model("tiny-untrained", device="cpu", dtype="float32")
    assert not loaded.trained
    assert loaded.rules == TINY_RULES
    assert loaded.vlm.autocast is None


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/such/folder", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused_at_once(name):
    with pytest.raises(ConfigError, match="expected tiny, tiny-untrained, a folder or a hub name"):
        load_model(name)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"view_size": 64}', '{"reward": {}, "nobody": 1}', '{"reward": 3}']
)
def test_damaged_rules_name_their_file(tmp_path, text):
    path = tmp_path / "dip_env.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"dip_env\.json: expected episode rules"):
        read_rules(path)


def test_rules_follow_the_family(fresh_micro, micro, tmp_path):
    micro("qwen3_vl").core.config.save_pretrained(tmp_path / "qwen3_vl")
    micro("qwen2_5_vl").core.config.save_pretrained(tmp_path / "qwen2_5_vl")
    Qwen2VLConfig().save_pretrained(tmp_path / "qwen2_vl")
    for family, multiple, frame in (
        ("qwen3_vl", 32, "norm1000"),
        ("qwen2_5_vl", 28, "pixel"),
        ("qwen2_vl", 28, "norm1000"),  # thousandths, as its authors say
    ):
        rules = rules_of(str(tmp_path / family))
        assert (rules.size_multiple, rules.coordinate_format) == (multiple, frame)


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: expected cpu"):
        load_model("tiny-untrained", device="cuda")


def test_rules_survive_json(tmp_path):
    rules = EpisodeConfig.from_keywords({"view_size": 96, "beta": 2.0})
    (tmp_path / "dip_env.json").write_text(json.dumps(asdict(rules)))
    assert read_rules(tmp_path / "dip_env.json") == rules


def test_rules_written_before_a_setting_existed_have_its_default(tmp_path):
    flat = asdict(EpisodeConfig(max_looks=1))
    del flat["reward"]["ambiguity"]
    (tmp_path / "dip_env.json").write_text(json.dumps(flat))
    assert read_rules(tmp_path / "dip_env.json") == EpisodeConfig(max_looks=1)
