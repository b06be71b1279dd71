from __future__ import annotations

import pytest

from dip_agents.needs import needs
from dip_env.errors import ConfigError


def test_a_missing_library_comes_with_its_install_line():
    needs("dip_env", "trl")
    with pytest.raises(ConfigError, match=r'package nowhere_at_all.*pip install "dip-env\[trl\]"'):
        needs("nowhere_at_all", "trl")


def test_an_experiment_asks_for_its_plots_before_it_measures(monkeypatch, run):
    monkeypatch.setattr("dip_agents.needs.find_spec", lambda name: None)
    code, _, errors = run("experiment", "controls")
    assert code == 2
    assert (
        'expected the package matplotlib, which is not installed: pip install "dip-env[play]"'
        in (" ".join(errors.split()))
    )
