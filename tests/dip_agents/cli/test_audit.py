from __future__ import annotations

from dip_env.config import EpisodeConfig


def test_an_audit_that_an_adversary_wins_exits_with_1(run):
    code, shown, error = run("audit", "--n", 4, "--look-weight", 1)
    assert code == 1
    assert "look" in shown
    assert error.startswith("playing adversaries ...")  # a sign of life, apart from the table


def test_the_defaults_are_those_of_the_environment(settings):
    assert settings("audit").rules == EpisodeConfig()


def test_no_scenes_are_bad_input_and_no_verdict(run):
    assert run("audit", "--n", 0) == (2, "", "dip audit: --n: expected at least 1, got 0\n")
