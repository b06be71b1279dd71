from dip_agents.engines.choose import engine_for
from dip_agents.engines.generic import GenericEngine
from dip_agents.engines.hf import HFEngine


def test_every_model_gets_the_fastest_engine_that_knows_it(micro, generic_micro):
    for family in ("qwen3_vl", "qwen2_5_vl"):
        assert type(engine_for(micro(family))) is HFEngine
    engine = engine_for(generic_micro("llava"))
    assert type(engine) is GenericEngine
    assert engine.chat is generic_micro("llava").chat
    assert engine.exact_logprobs
