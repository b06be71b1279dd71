"""The public names of packages, which load what is behind them only when they are asked for."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

FACES = [
    "dip_agents.engines",
    "dip_agents.evaluation",
    "dip_agents.experiments",
    "dip_agents.glimpse",
    "dip_agents.models",
    "dip_agents.policies",
    "dip_agents.tokens",
]


@pytest.mark.parametrize("name", FACES)
def test_every_public_name_is_there_and_none_is_that_of_a_module(name):
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert 3 <= len(package.__all__) <= 11
    assert set(package.__all__).isdisjoint(modules)
    for public in package.__all__:
        assert inspect.getmodule(getattr(package, public)).__name__.startswith("dip_")


@pytest.mark.parametrize("name", FACES)
def test_a_package_is_imported_without_torch(name):
    code = f"import sys, {name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_oracle_and_server_are_evaluated_and_rewards_audited_without_torch():
    code = (
        "import sys; from dip_agents.policies import OraclePolicy, ServerPolicy; "
        "from dip_agents.evaluation import evaluate, run_audit; "
        "from dip_agents.experiments import run_experiment; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
