import pytest

from dip_agents.engines.choose import engine_for
from dip_agents.evaluation.evaluator import evaluate_conditions
from dip_agents.evaluation.model import evaluate_model
from dip_agents.experiments.kinds import variations
from dip_agents.models.loading import load_model
from dip_agents.models.rules import BUNDLED, RULES_FILE, TINY_RULES, rules_of
from dip_agents.policies.vlm import VLMPolicy
from dip_env.scenes import make_source


def test_the_bundled_model_is_small_and_comes_with_its_rules_and_card():
    assert (BUNDLED / "model.safetensors").stat().st_size < 12_000_000
    assert (BUNDLED / "README.md").is_file()
    assert (BUNDLED / RULES_FILE).is_file()
    assert rules_of("tiny") == TINY_RULES


@pytest.mark.parametrize(("preset", "least"), [("easy", 0.8), ("crowd", 0.4)])
def test_the_bundled_model_has_learned_the_form_and_finds_people(preset, least):
    """Below its measured scores (see its card), far above what random weights earn."""
    loaded = load_model("tiny", dtype="float32")
    assert loaded.trained
    source = make_source(preset, split="val")
    result = evaluate_model(
        loaded.vlm, source, range(12), loaded.rules, max_new_tokens=224, token_budget=768
    )
    assert result.metrics["format"].value > 0.9
    assert result.metrics["F1"].value > least
    assert result.metrics["looks_per_episode"].value > 0.9


@pytest.mark.slow
def test_the_bundled_model_reads_crops_and_has_not_learned_where_to_look():
    loaded = load_model("tiny", dtype="float32")
    ways = {
        way.name: way.condition
        for way in variations("magnification", loaded.rules)
        if way.name in ("own looks", "no looks", "oracle tiles at 4x")
    }
    policy = VLMPolicy(engine_for(loaded.vlm))
    found = evaluate_conditions(policy, make_source("far", split="val"), range(32), ways)
    f1 = {name: result.metrics["F1"].value for name, result in found.items()}
    # Far below the gains of 256 scenes, see its card.
    assert f1["oracle tiles at 4x"] > max(f1["no looks"], f1["own looks"]) + 0.1
    assert found["own looks"].metrics["look_coverage"].value < 0.3
