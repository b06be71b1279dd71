"""The public names of packages, which load what is behind them only when they are asked for."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

FACES = ["dip_agents.engines", "dip_agents.models", "dip_agents.tokens"]


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
