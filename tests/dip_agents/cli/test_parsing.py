import pytest

from dip_agents.cli.parsing import TINY_GRPO, TINY_SFT, parse
from dip_agents.models.loading import save_model
from dip_env.config import EpisodeConfig


@pytest.fixture
def folder(fresh_micro, minimal_prompt_rules, tmp_path):
    return save_model(fresh_micro(), tmp_path / "model", minimal_prompt_rules)


def test_defaults_are_those_of_the_named_model(folder, minimal_prompt_rules):
    assert parse(["train"]).grpo == TINY_GRPO
    # Where the bundled model has something to learn; random weights are taught on the easy first.
    assert parse(["train"]).source.scenes == "night"
    assert parse(["train", "--model", "tiny-untrained"]).source.scenes == "easy"
    assert parse(["train", "--scenes", "drone"]).source.scenes == "drone"
    assert parse(["sft"]).sft == TINY_SFT
    assert parse(["evaluate", "--model", str(folder)]).rules == minimal_prompt_rules
    assert parse(["evaluate", f"--model={folder}", "--max-looks", "2"]).rules.max_looks == 2
    assert parse(["audit"]).rules == EpisodeConfig()
    assert parse(["train"]).rules.reward.ambiguity == "siblings"
    asked = parse(["train", "--ambiguity", "annotation", "--max-looks", "0"]).rules
    assert (asked.reward.ambiguity, asked.max_looks) == ("annotation", 0)
