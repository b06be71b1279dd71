from types import SimpleNamespace

import pytest

from dip_agents.engines.choose import open_engine
from dip_agents.engines.config import EngineArgs
from dip_agents.engines.hf import HFEngine
from dip_agents.engines.openai import OpenAIEngine
from dip_env.errors import ConfigError


def test_the_weights_in_this_process_sample_by_default(micro, minimal_prompt_rules):
    assert isinstance(
        open_engine(EngineArgs(), micro("qwen3_vl"), minimal_prompt_rules, 200), HFEngine
    )


def test_a_server_needs_its_name_and_the_models_name_there(micro, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    address = "http://127.0.0.1:1/v1"
    engine = open_engine(
        EngineArgs("openai", server=address, server_model="m", concurrency=3),
        vlm,
        minimal_prompt_rules,
        200,
    )
    assert isinstance(engine, OpenAIEngine)
    assert (engine.model, engine.concurrency) == ("m", 3)
    for wrong in (
        EngineArgs("openai"),
        EngineArgs("openai", server=address),
        EngineArgs("openai", server_model="m"),
        EngineArgs(server=address, server_model="m"),
        EngineArgs("vllm", server=address),
    ):
        with pytest.raises(ConfigError, match="engine: expected openai, a server and"):
            open_engine(wrong, vlm, minimal_prompt_rules, 200)


def test_vllm_gets_the_limits_of_the_rules(micro, minimal_prompt_rules, monkeypatch):
    monkeypatch.setattr(
        "dip_agents.engines.choose.VLLMEngine", lambda vlm, **given: SimpleNamespace(**given)
    )
    asked = vars(
        open_engine(
            EngineArgs("vllm", weight_sync="adapter", sleep=1), micro(), minimal_prompt_rules, 200
        )
    )
    assert asked == {
        "token_budget": 200,
        "max_images": 3,  # the overview and one look at two regions
        "max_image_side": 128,
        "weight_sync": "adapter",
        "sleep": 1,
    }


@pytest.mark.parametrize("engine", ["native", "openai"])
def test_what_only_vllm_does_is_refused_elsewhere(engine):
    with pytest.raises(ConfigError, match=f"sleep: expected 0 .* got 1 with engine {engine}"):
        EngineArgs(engine, sleep=1)
    with pytest.raises(ConfigError, match=r"weight_sync: expected merged .* got adapter"):
        EngineArgs(engine, weight_sync="adapter")


def test_an_engine_that_forgets_its_weights_cannot_measure():
    with pytest.raises(ConfigError, match="sleep: expected 0 or 1 with evaluate, got 2, which"):
        EngineArgs("vllm", sleep=2).check_measuring("evaluate")
    for sleep in (0, 1):
        EngineArgs("vllm", sleep=sleep).check_measuring("evaluate")


def test_vllm_is_for_the_families_it_was_proven_with(generic_micro, minimal_prompt_rules):
    with pytest.raises(ConfigError, match="engine: expected native for a llava model, got vllm"):
        open_engine(EngineArgs("vllm"), generic_micro("llava"), minimal_prompt_rules, 200)
