import pytest
import torch

from dip_agents.engines.base import Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.rollouts import collect_rollouts


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_vision_tower_sees_an_image_once_and_one_that_learns_each_time(
    fresh_micro, toy, minimal_prompt_rules, monkeypatch, frozen
):
    vlm = fresh_micro()
    vlm.core.model.visual.requires_grad_(not frozen)
    seen = []
    encode = vlm.vision.encode
    monkeypatch.setattr(
        vlm.vision, "encode", lambda images: (seen.append(len(images)), encode(images))[1]
    )
    sampling = Sampling(1.0, 8, 200)
    groups = collect_rollouts(
        HFEngine(vlm), toy, [0, 1], 2, minimal_prompt_rules, seed=0, sampling=sampling
    )
    first = sum(seen)
    assert first >= 2
    buffers = [r.buffer for g in groups for r in g.rollouts]
    logprobs = vlm.token_logprobs(buffers).logprobs
    logprobs.sum().backward()
    assert sum(seen) == (first if frozen else 2 * first)
    with torch.no_grad():
        for weight in vlm.core.model.visual.parameters():
            weight.mul_(1.5)  # other weights: what was kept is of no use
    assert not torch.allclose(vlm.token_logprobs(buffers).logprobs, logprobs)
