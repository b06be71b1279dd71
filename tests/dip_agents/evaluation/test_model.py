import json

from dip_agents.evaluation.model import evaluate_model, write_gain


def test_the_gain_is_paired_and_written(micro, toy, minimal_prompt_rules, tmp_path):
    limits = {"max_new_tokens": 48, "token_budget": 300}
    vlm = micro("qwen3_vl")
    result = evaluate_model(
        vlm, toy, range(4), minimal_prompt_rules, **limits, out=tmp_path / "before"
    )
    again = evaluate_model(vlm, toy, range(4), minimal_prompt_rules, **limits)
    returned = write_gain(result, again, tmp_path)
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept == json.loads(json.dumps(returned))
    assert kept["paired_gain"]["reward"]["value"] == 0.0
    assert kept["before"]["n"] == 4
    assert (tmp_path / "before" / "detections.json").is_file()
