import copy

import pytest
import torch
from torch import nn

from dip_agents.models.lora import add_lora
from dip_agents.models.vlm import VLM
from dip_agents.runtime.errors import CheckpointError


def test_a_lora_checkpoint_holds_the_adapter_only_and_comes_back(fresh_micro):
    vlm = fresh_micro()
    lora = VLM(add_lora(vlm.model, 2, seed=0), vlm.processor)
    state = lora.state_dict()
    assert state and all("lora_" in name and "visual" not in name for name in state)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    lora.load_state_dict(zeros)
    assert all(not tensor.any() for tensor in lora.state_dict().values())
    with pytest.raises(CheckpointError, match="state: expected names of this model, got 'nobody'"):
        lora.load_state_dict({"nobody": torch.zeros(1)})


def test_weights_of_another_model_are_refused(fresh_micro):
    vlm = fresh_micro()
    state = vlm.state_dict()
    name = "lm_head.weight"
    with pytest.raises(CheckpointError, match="state: expected the weights of this model"):
        vlm.load_state_dict(state | {name: state[name][:-1]})


@pytest.mark.parametrize("rank", [0, 2])
def test_without_its_adapter_a_model_is_the_one_it_began_as(fresh_micro, rank):
    vlm = fresh_micro()
    ids = torch.tensor([[5, 6, 7]])
    before = vlm.core(input_ids=ids).logits
    if rank:
        vlm = VLM(add_lora(vlm.model, rank, seed=0), vlm.processor)
        for name, parameter in vlm.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
        assert not torch.allclose(vlm.core(input_ids=ids).logits, before)
    assert vlm.has_adapter is bool(rank)
    with vlm.without_adapter():
        assert torch.equal(vlm.core(input_ids=ids).logits, before)


def test_a_frozen_copy_does_not_follow_the_model_and_does_not_learn(fresh_micro):
    vlm = fresh_micro()
    frozen = vlm.frozen_copy()
    held = copy.deepcopy(frozen.state_dict())
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(1.0)
    assert type(frozen) is VLM and not list(frozen.trainable_parameters())
    assert all(torch.equal(frozen.state_dict()[name], tensor) for name, tensor in held.items())


def test_a_frozen_copy_shares_the_features_of_a_tower_that_does_not_learn(fresh_micro):
    vlm = fresh_micro()
    vlm.core.model.visual.requires_grad_(False)
    frozen = vlm.frozen_copy()
    assert frozen.vision is vlm.vision
    assert frozen.core.model.visual is vlm.core.model.visual
    assert not list(frozen.trainable_parameters()) and list(vlm.trainable_parameters())
    for name, weight in vlm.core.model.language_model.named_parameters():
        copied = frozen.core.model.language_model.get_parameter(name)
        assert copied is not weight and torch.equal(copied, weight), name
