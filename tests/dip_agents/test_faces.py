"""The public names of packages, which load what is behind them only when they are asked for."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dip_env.errors import ConfigError

FACES = [
    f"dip_agents.{name}"
    for name in (
        *("engines", "evaluation", "experiments", "glimpse", "grpo", "models", "objectives"),
        *("policies", "runtime", "sft", "tokens"),
    )
]
LIGHT = [
    "dip_agents.grpo.config",
    "dip_agents.objectives.choices",
    "dip_agents.runtime.errors",
    "dip_agents.runtime.logger",
    "dip_agents.sft.config",
]
"""Modules of settings and logs."""
RUNTIME = Path(__file__).parents[2] / "agents" / "dip_agents" / "runtime"


@pytest.mark.parametrize("name", FACES)
def test_every_public_name_is_there_and_none_is_that_of_a_module(name):
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert 3 <= len(package.__all__) <= 11
    assert set(package.__all__).isdisjoint(modules)
    for public in package.__all__:
        try:
            found = getattr(package, public)
        except ConfigError as error:  # of a library that an extra brings
            assert re.search(r'pip install "dip-env\[\w+\]"', str(error)), public
        else:
            assert inspect.getmodule(found).__name__.startswith("dip_")


@pytest.mark.parametrize("name", [*FACES, ", ".join(LIGHT)])
def test_a_package_is_imported_without_torch(name):
    code = f"import sys, {name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_runtime_imports_no_other_package_of_the_agents():
    imported = {
        f"{path.name}: {node.module}"
        for path in RUNTIME.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dip_agents.")
        if not (node.module or "").startswith("dip_agents.runtime.")
    }
    assert not imported


def test_oracle_and_server_are_evaluated_and_rewards_audited_without_torch():
    code = (
        "import sys; from dip_agents.policies import OraclePolicy, ServerPolicy; "
        "from dip_agents.evaluation import evaluate, run_audit; "
        "from dip_agents.experiments import run_experiment; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
