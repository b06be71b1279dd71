"""The packages' public names load on use, and only what they need."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
from importlib.metadata import version

import gymnasium as gym
import pytest

import dip_env

PACKAGES = ("dip_env", "dip_env.scenes", "dip_env.metrics", "dip_env.formats")


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_resolves_and_none_hides_a_module(name):
    package = importlib.import_module(name)
    assert len(package.__all__) >= 5
    assert all(getattr(package, public) is not None for public in package.__all__)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)


def test_the_version_is_that_of_the_installed_package():
    assert dip_env.__version__ == version("dip-env")


def test_importing_the_package_loads_no_solver_no_drawing_and_no_reader():
    heavy = ("scipy", "PIL", "pycocotools", "torch", "dip_env.env", "dip_env.scenes")
    assert run(f"import sys, dip_env; print([m for m in {heavy} if m in sys.modules])") == "[]"
    drawn = "import sys, dip_env; dip_env.make_source('toy'); print('scipy' in sys.modules)"
    assert run(drawn) == "False"


@pytest.mark.parametrize(
    "make",
    ["import dip_env; env = gym.make('DIPCrowd-v0')", "env = gym.make('dip_env:DIPCrowd-v0')"],
)
def test_a_fresh_process_makes_the_environment(make):
    assert run(f"import gymnasium as gym; {make}; print(type(env.unwrapped).__name__)") == (
        "DIPCrowdEnv"
    )


def test_environments_survive_a_copy_and_a_pickle():
    env = gym.make("DIPCrowd-v0", scenes="easy")
    first, _ = env.reset(seed=4)
    for made in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        again, _ = made.reset(seed=4)
        assert again["text"] == first["text"]
        assert (again["image"] == first["image"]).all()
