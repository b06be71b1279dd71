import logging

import pytest
import torch

from dip_agents.models import chunked_logprobs


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_scores_of_a_model_are_the_same_in_tiles(micro, monkeypatch, temperature):
    vlm = micro()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(30, vlm.head.weight()[0].shape[1], generator=generator) * 10
    ids = torch.tensor(vlm.chat.policy_ids("<answer>[[1,2,30,40]]</answer>"))[:6].repeat(5)
    whole = vlm.head.scores(states, ids, temperature)
    monkeypatch.setattr("dip_agents.models.logprob_head.DENSE_LIMIT", 0)
    monkeypatch.setattr(vlm.head, "log_softmax", None)  # the dense way is closed
    for one, other in zip(vlm.head.scores(states, ids, temperature), whole, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_a_head_with_an_adapter_takes_the_dense_way(fresh_micro, monkeypatch, caplog):
    from peft import LoraConfig, get_peft_model

    chunked_logprobs._warn_dense.cache_clear()
    monkeypatch.setattr("dip_agents.models.logprob_head.DENSE_LIMIT", 0)
    vlm = fresh_micro()
    states = torch.randn(4, vlm.head.weight()[0].shape[1])
    ids = torch.tensor([5, 6, 7, 8])
    vlm.model = get_peft_model(
        vlm.model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    )
    with caplog.at_level(logging.WARNING):
        logp, _ = vlm.head.scores(states, ids, 1.0)
    assert "got peft.tuners.lora.layer.Linear: the logits" in caplog.text
    torch.testing.assert_close(
        logp, vlm.head.log_softmax(states, 1.0).gather(1, ids[:, None])[:, 0]
    )


def test_banned_tokens_have_no_probability_and_the_others_all_of_it(micro):
    vlm = micro()
    states = torch.randn(
        3, vlm.head.weight()[0].shape[1], generator=torch.Generator().manual_seed(1)
    )
    logp = vlm.head.log_softmax(states, 0.7)
    assert (logp[:, vlm.banned_ids] == -torch.inf).all()
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(3))
