import json

import pytest
import torch
from safetensors.torch import load_file

from dip_agents.models import _with_lora
from dip_agents.vlm import VLM
from dip_agents.weights import checkpoint_weights, write_checkpoint

QUERY = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture
def lora(fresh_micro):
    """A micro model with a LoRA that is not zero."""
    base = fresh_micro()
    wrapped = VLM(_with_lora(base.model, 8, 0), base.processor)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.trainable_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return wrapped


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
