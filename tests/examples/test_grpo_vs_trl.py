"""Both sides of the comparison with TRL, for real, on a task of seconds."""

import sys

import pytest

pytest.importorskip("trl", reason="needs the extra trl")


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2])
def test_trl_does_the_same_work_token_by_token(scripts, monkeypatch, capsys, turns):
    # Runs of unequal prompts, lengths or tokens are refused: see check_same_work.
    words = ["--smoke", "--trl", sys.prefix, "--pairs", "1", "--setting", "fp32"]
    monkeypatch.setattr(
        sys, "argv", ["benchmark", *words, *(["--multi-turn"] if turns > 1 else [])]
    )
    assert scripts("benchmarks")("grpo_vs_trl").main() == 0
    out = capsys.readouterr().out
    assert f"{24 * turns} sampled tokens per rollout" in out
    assert "| rollouts/s |" in out and "| peak memory, MB |" in out
