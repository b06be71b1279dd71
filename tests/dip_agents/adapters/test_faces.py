"""The public face of each adapter: short paths that load a trainer's library on first use."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dip_agents import adapters

(FOLDER,) = map(Path, adapters.__path__)
LIBRARIES = ("openenv", "ray", "trl", "verifiers", "verl")
"""What each adapter wants installed, which is also its own name."""
PACKAGES = ("dip_agents.adapters", *(f"dip_agents.adapters.{name}" for name in LIBRARIES))


def exported(package: str) -> dict[str, str]:
    """Return the module that each public name of a package comes from."""
    stub = FOLDER.joinpath(*package.split(".")[2:], "__init__.pyi").read_text()
    return {
        alias.name: str(node.module)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_every_adapter_has_a_face():
    assert {path.parent.name for path in FOLDER.glob("*/__init__.pyi")} == set(LIBRARIES)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_that_of_a_module_beside_it(package):
    folder = FOLDER.joinpath(*package.split(".")[2:])
    beside = {path.stem for path in folder.iterdir() if path.suffix in ("", ".py")}
    assert not beside & set(exported(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_of_their_modules(package):
    library = package.rpartition(".")[2]
    if library in LIBRARIES and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    face = importlib.import_module(package)
    assert sorted(face.__all__) == sorted(exported(package))
    for name, module in exported(package).items():
        assert getattr(face, name) is getattr(importlib.import_module(f"{package}.{module}"), name)


LOADED = """
import importlib, json, sys
for package in json.loads(sys.argv[1]):
    importlib.import_module(package)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
FIRST_USE = """
import importlib, json, sys
names, missing = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(missing))
found = {}
for package, name in names.items():
    try:
        getattr(importlib.import_module(package), name)
    except Exception as error:
        found[package] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def run_fresh(code: str, *arguments: object) -> Any:
    """Return what a fresh process prints as JSON."""
    command = [sys.executable, "-c", code, *map(json.dumps, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_importing_the_faces_loads_no_trainer_and_no_torch():
    loaded = run_fresh(LOADED, PACKAGES)
    assert "lazy_loader" in loaded
    assert not {*LIBRARIES, "torch", "transformers", "datasets", "accelerate"} & set(loaded)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_first_use_without_the_library_says_how_to_install_it(library):
    package = f"dip_agents.adapters.{library}"
    (name, *_) = exported(package)
    found = run_fresh(FIRST_USE, {package: name}, [library, "pyarrow"])
    assert found[package].startswith("ConfigError: expected the package")
    assert found[package].endswith(f'pip install "dip-env[{library}]"')
