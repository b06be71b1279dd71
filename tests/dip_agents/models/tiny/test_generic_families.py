import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from dip_agents.models.tiny.vocabulary import tiny_texts

FAMILIES = ["llava", "idefics3", "internvl", "gemma3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_what_the_auto_classes_make_of_it(build_generic, family, tmp_path):
    model, processor = build_generic(tiny_texts(), family)
    assert model.config.model_type == family
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    made = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tmp_path))
    assert type(made) is type(model)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(processor)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert len(processor.tokenizer) <= model.config.get_text_config().vocab_size
    assert sum(p.numel() for p in model.parameters()) < 300_000


def test_weights_come_from_the_seed(build_generic):
    one, again, other = (
        build_generic(tiny_texts(), "internvl", seed)[0].state_dict() for seed in (0, 0, 1)
    )
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
