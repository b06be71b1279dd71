import copy

import pytest
import torch
from torch import nn

from dip_agents.models.lora import adapter_rank, add_lora, base_model, has_adapter
from dip_agents.models.vlm import VLM
from dip_agents.models.wrapper import ModelWrapper


def test_an_adapter_is_seen_with_its_rank_and_taken_off(fresh_micro):
    vlm = fresh_micro()
    core = vlm.model
    assert not has_adapter(core) and adapter_rank(core) == 0 and base_model(core) is core
    lora = add_lora(core, 3, seed=0)
    assert has_adapter(lora) and adapter_rank(lora) == 3 and base_model(lora) is core


@pytest.mark.parametrize("rank", [0, 2])
def test_without_its_adapter_a_model_is_the_one_it_began_as(fresh_micro, rank):
    vlm: ModelWrapper = fresh_micro()
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
