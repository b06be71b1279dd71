"""No placeholder of an image or a video can be sampled under TRL."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")

from transformers import GenerationConfig

from dip_agents.adapters.trl.sampling import banned_tokens, check_banned
from dip_env.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_model_that_wants_nothing_but_placeholders_samples_none(tools):
    model, processor = tools.built("qwen3_vl")
    placeholders = torch.tensor([processor.image_token_id, processor.video_token_id])
    model.lm_head.register_forward_hook(
        lambda _, args, logits: logits.index_fill(-1, placeholders, 100.0)
    )
    start = torch.tensor([processor.tokenizer.encode("go")])

    def sampled(**kwargs):
        rules = GenerationConfig(max_new_tokens=8, do_sample=True, pad_token_id=0, **kwargs)
        return model.generate(start, generation_config=rules)[0, start.shape[1] :]

    assert torch.isin(sampled(), placeholders).all()
    assert not torch.isin(sampled(**banned_tokens(processor)), placeholders).any()


def test_vllm_gets_the_bans_in_its_own_keywords(processor):
    ids = [processor.image_token_id, processor.video_token_id]
    # The lowest that its server takes.
    assert banned_tokens(processor, use_vllm=True) == {"logit_bias": dict.fromkeys(ids, -100.0)}


@pytest.mark.parametrize("use_vllm", [False, True])
def test_what_leaves_a_placeholder_open_is_refused_with_the_line_to_write(
    tools, processor, use_vllm
):
    image, video = processor.image_token_id, processor.video_token_id
    bans = banned_tokens(processor, use_vllm)
    accepted = [bans, bans | {"seed": 1}]
    if use_vllm:
        accepted += [{"logit_bias": {str(image): -100, str(video): -100.0, "7": 3}}]
        some = {"logit_bias": {image: -100.0, video: -99.0}}
    else:
        accepted += [{"suppress_tokens": [7, video, image]}]
        some = {"suppress_tokens": [image]}
    for kwargs in accepted:
        check_banned(processor, tools.args(processor, use_vllm=use_vllm, generation_kwargs=kwargs))
    line = rf"GRPOConfig\(generation_kwargs=banned_tokens\(processor, use_vllm={use_vllm}\), ...\)"
    for kwargs in (None, {}, some, banned_tokens(processor, not use_vllm)):
        args = tools.args(processor, use_vllm=use_vllm, generation_kwargs=kwargs)
        with pytest.raises(ConfigError, match=rf"expected to ban .*{video}\].* got .*{line}"):
            check_banned(processor, args)
