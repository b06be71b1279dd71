"""A model's folder is loaded whole, or refused in one error; nothing in it is run."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2VLConfig

from dip_agents.models.loading import load_model
from dip_agents.models.rules import rules_of
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import write_checkpoint
from dip_env.errors import ConfigError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    model, processor = build_tiny(["Find every person"], size="micro")
    return write_checkpoint(VLM(model, processor), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def configure(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def reweigh(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def untie(config):
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False


NORM = "model.language_model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if "visual.blocks.0" not in k},
            r"expected the weights of Qwen3VLForConditionalGeneration, got \d+ missing "
            r"\(model\.visual\.blocks\.0\.attn\.proj\.bias, .*, \.\.\.\)",
        ),
        (
            lambda s: {f"base_model.model.{k}": v for k, v in s.items()},
            r"missing .*; \d+ of another model \(base_model\.model\.model\.",
        ),
        (lambda s: s | {NORM: s[NORM][1:]}, rf"1 of another shape \({NORM}\)"),
        (lambda s: s | {"more": torch.zeros(2)}, r"got 1 of another model \(more\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, words):
    reweigh(folder, change)
    with pytest.raises(ConfigError, match=words):
        load_model(str(folder))


def test_a_head_that_is_neither_tied_nor_there_is_refused_and_a_tied_one_loaded(folder):
    model = load_model(str(folder), dtype="float32").vlm.core
    assert model.lm_head.weight is model.get_input_embeddings().weight
    configure(folder, untie)
    with pytest.raises(ConfigError, match=r"got 1 missing \(lm_head\.weight\)"):
        load_model(str(folder))


def test_a_config_of_a_much_larger_model_is_refused_before_memory_is_taken(folder):
    configure(folder, lambda c: c["text_config"].update(vocab_size=10**10))
    with pytest.raises(ConfigError, match=r"config\.json: expected a model of the \d+ weights"):
        load_model(str(folder))


def pointer(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def half(folder):
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) // 2])


def shards(folder):
    index = {"weight_map": {NORM: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pointer, r"model\.safetensors is a pointer of Git LFS; run `git lfs pull`"),
        (half, r"model\.safetensors: expected whole safetensors, got \d+ bytes"),
        (shards, r"index\.json: model-00001-of-00002\.safetensors is missing"),
        (adapter, r"a LoRA adapter \(adapter_config\.json\); merge it"),
        (lambda f: (f / "config.json").unlink(), r"config\.json"),
        (lambda f: (f / "config.json").write_text("[1"), r"config\.json"),
        (lambda f: (f / "chat_template.jinja").unlink(), "take chat_template.jinja from the base"),
        (lambda f: (f / "processor_config.json").unlink(), "image processor"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "model '"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(folder, change, words):
    change(folder)
    with pytest.raises(ConfigError, match=words):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5"])
def test_a_family_with_several_positions_a_token_is_refused_by_its_type(folder, name, caplog):
    AutoConfig.for_model(name).save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=rf"model {name} .*: expected one of qwen2_vl, qwen2_5_vl"
    ):
        load_model(str(folder))
    assert "slower" not in caplog.text


@pytest.mark.parametrize("name", ["qwen3", "evil", None, 3])
def test_a_type_without_images_or_unknown_is_refused_by_its_name(folder, name):
    configure(folder, lambda c: c.update(model_type=name))
    for read in (load_model, rules_of):
        with pytest.raises(ConfigError, match=rf"config\.json: expected .*model_type.*{name!r}"):
            read(str(folder))


@pytest.mark.parametrize("place", ["", "text_config"])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_from_elsewhere_is_refused(folder, place, key):
    configure(folder, lambda c: (c[place] if place else c).update({key: "evil-org/evil-kernel"}))
    with pytest.raises(ConfigError, match=r"expected attention of eager, .* got 'evil-org/evil"):
        load_model(str(folder))


def test_no_code_of_a_folder_is_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass E: pass\n")
    code = dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText"), "evil.E")
    configure(folder, lambda c: c.update(auto_map=code, model_type="evil"))
    with pytest.raises(ConfigError, match="'evil'"):
        load_model(str(folder))
    configure(folder, lambda c: c.update(model_type="qwen3_vl"))
    load_model(str(folder))
    assert not ran.exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_weights_that_would_run_code_are_refused(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    torch.save({"a": Evil(str(tmp_path / "ran"))}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="got a pickle that would run code"):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_rules_need_no_weights(folder):
    Qwen2VLConfig().save_pretrained(folder)
    (folder / WEIGHTS).unlink()
    assert rules_of(str(folder)).coordinate_format == "norm1000"
