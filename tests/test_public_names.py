"""What is documented is imported from where it is documented, and loads nothing heavy before."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATHS = {"dip_env": ".", "dip_wrappers": "wrappers", "dip_agents": "agents"}
MODULES = {"dip_env.errors", "dip_env.testing"}
"""Modules that users import from beside the faces of packages."""
ADAPTERS = "dip_agents.adapters."
"""Load the library of a trainer, which need not be installed."""
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))
INSIDE = sorted(
    path
    for path in (ROOT / "examples").rglob("*.py")
    if path not in EXAMPLES and path.stem[0] != "_"
)


@cache
def faces() -> dict[str, dict[str, str]]:
    """Return the public names of each package that has a face, with the module each is from."""
    found = {}
    for package, top in PATHS.items():
        for stub in sorted((ROOT / top / package).rglob("__init__.pyi")):
            name = ".".join(stub.parent.relative_to(ROOT / top).parts)
            found[name] = {
                alias.name: f"{name}.{node.module}"
                for node in ast.parse(stub.read_text(encoding="utf-8")).body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
    for name in ("dip_wrappers", "dip_wrappers.glimpse"):
        found.setdefault(name, dict.fromkeys(importlib.import_module(name).__all__, name))
    return found


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of every import from this project."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dip_"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def strangers(source: str) -> list[str]:
    """Return what is imported from a place that is not public."""
    return [
        f"from {module} import {name}"
        for module, name in imports(source)
        if module not in MODULES and name not in faces().get(module, {})
    ]


def hidden(source: str) -> list[str]:
    """Return what is imported from inside a package although its face has it."""
    return [
        f"from {module} import {name}: {face} has it"
        for module, name in imports(source)
        for face, names in faces().items()
        if names.get(name) == module
    ]


@pytest.mark.parametrize("face", ["dip_agents", "dip_env", "dip_env.metrics", "dip_env.scenes"])
def test_every_name_of_a_face_is_there(face):
    package = importlib.import_module(face)
    assert set(faces()[face]) | {"__version__"} >= set(package.__all__) - {"__version__"}
    for name in faces()[face]:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_the_package_of_the_agents_has_the_names_of_its_parts():
    names = faces()["dip_agents"]
    assert 30 <= len(names) <= 40
    assert {"GRPOTrainer", "train_grpo", "load_model", "OraclePolicy", "evaluate"} <= names.keys()


@pytest.mark.parametrize("face", sorted({name.partition(".")[0] for name in PATHS}))
def test_importing_a_package_loads_no_torch_and_no_transformers(face):
    code = f"import sys, {face}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_the_readme_imports_from_faces_only(block):
    lines = block.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    source = "\n".join(line[indent:] for line in lines)
    assert list(imports(source)) or "import dip_env" in source
    assert strangers(source) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_from_faces_only(path):
    assert strangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: path.name)
def test_studies_and_benchmarks_import_from_faces_what_these_have(path):
    assert hidden(path.read_text(encoding="utf-8")) == []


def test_every_dotted_name_in_the_readme_is_there():
    names = set(re.findall(r"`(?:[A-Za-z]+\()?(dip_(?:env|agents|wrappers)(?:\.\w+)+)", README))
    assert names
    for name in sorted(names):
        if name.startswith(ADAPTERS):
            continue
        module, _, attribute = name.rpartition(".")
        # What an extra brings is named by the face, whether or not it is installed here.
        if attribute in faces().get(module, {}):
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_the_checks_can_fail():
    assert strangers("from dip_agents.grpo.trainer import GRPOTrainer")
    assert strangers("from dip_agents import Nothing")
    assert not strangers("from dip_agents import GRPOTrainer\nimport numpy")
    assert hidden("from dip_agents.grpo.trainer import GRPOTrainer")
    assert not hidden("from dip_agents.grpo.updater import PolicyModel")
