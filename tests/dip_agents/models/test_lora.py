from dip_agents.models.lora import adapter_rank, add_lora, base_model, has_adapter


def test_an_adapter_is_seen_with_its_rank_and_taken_off(fresh_micro):
    vlm = fresh_micro()
    core = vlm.model
    assert not has_adapter(core) and adapter_rank(core) == 0 and base_model(core) is core
    lora = add_lora(core, 3, seed=0)
    assert has_adapter(lora) and adapter_rank(lora) == 3 and base_model(lora) is core
