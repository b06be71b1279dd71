from __future__ import annotations

import json

import pytest

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.files import load_evaluation
from dip_agents.policies import OracleConfig, OraclePolicy
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError
from dip_env.scenes import ToyScenes


@pytest.fixture
def written(tmp_path):
    source = ToyScenes()
    rules = EpisodeConfig(max_looks=1, reward=RewardConfig(look_weight=0.2))
    policy = OraclePolicy(source, rules, OracleConfig(miss_rate=0.4, jitter=0.1))
    out = tmp_path / "eval"
    return out, evaluate(policy, source, range(4), rules, group_size=3, seed=7, out=out)


def test_an_evaluation_is_read_back_with_all_its_rollouts(written):
    out, result = written
    again = load_evaluation(out)
    assert again.metrics == result.metrics
    assert (again.config, again.seed, again.group_size) == (result.config, 7, 3)
    assert again.to_json() == result.to_json()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scenes.json", None, r"scenes\.json: expected a file of an evaluation"),
        ("truth.json", "{", r"truth\.json: expected JSON"),
        ("truth.json", '{"images": [],\n"images": []}', r"truth\.json: .*'images' twice at line 2"),
        ("scenes.json", {"counters": {}, "further_rollouts": []}, "counters: expected 4 numbers"),
        ("scenes.json", {"counters": {}}, "expected field 'further_rollouts', got none"),
        ("metrics.json", {"scene_indices": [0]}, "expected field 'config', got none"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_named(written, name, change, message):
    out, _ = written
    if change is None:
        (out / name).unlink()
    else:
        text = change if isinstance(change, str) else json.dumps(change)
        (out / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_evaluation(out)
