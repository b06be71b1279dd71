import pytest
import torch

from dip_agents.policies.oracle import OracleConfig
from dip_agents.sft.demonstrations import DemonstrationDataset
from dip_agents.sft.loss import DenseHeads, SFTCounts, dense_targets, sft_counts, sft_loss


def demonstrations(vlm, toy, rules):
    return DemonstrationDataset(toy, 4, rules, OracleConfig(), vlm.chat)


def test_the_loss_is_the_mean_over_the_demonstrators_tokens(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[0], data[2]]
    with torch.no_grad():
        loss = sft_loss(vlm, batch, None)
        out = vlm.token_logprobs([demonstration.buffer for demonstration in batch])
    expected = -float(out.logprobs.sum()) / int(out.mask.sum())
    assert loss.text == pytest.approx(expected, rel=1e-4)
    assert loss.dense == 0.0


def test_shards_of_a_batch_add_up_to_its_loss(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[i] for i in range(4)]
    torch.manual_seed(0)
    heads = DenseHeads(vlm.core.config.text_config.hidden_size)

    with torch.no_grad():
        whole = sft_loss(vlm, batch, heads, 1.0, 0.5)
        counts = [sft_counts(part, dense_targets(vlm, part)) for part in (batch[:1], batch[1:])]
        of_both = SFTCounts.total(counts)
        parts = [sft_loss(vlm, part, heads, 1.0, 0.5, of_both) for part in (batch[:1], batch[1:])]
    assert whole.dense > 0
    for name in ("total", "text", "dense", "accuracy"):
        both = sum(float(getattr(part, name)) for part in parts)
        assert both == pytest.approx(float(getattr(whole, name)), rel=1e-4), name
