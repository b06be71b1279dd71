"""The arrows between the packages, read from the syntax trees, and a dip_env without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "dip_env": ROOT / "dip_env",
    "dip_wrappers": ROOT / "wrappers" / "dip_wrappers",
    "dip_agents": ROOT / "agents" / "dip_agents",
    "examples": ROOT / "examples",
}
ORDER = tuple(FOLDERS)
HEAVY = {"torch", "torchvision", "transformers", "peft", "accelerate", "stable_baselines3", "vllm"}


def imported(source: str) -> Iterator[str]:
    """Yield the package of every import at any depth, typing-only and function-level ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                str(argument.value).partition(".")[0]
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant)
            )


def wrong_imports(package: str, source: str) -> set[str]:
    """Return what a file of ``package`` may not import."""
    forbidden = set(ORDER[ORDER.index(package) + 1 :])
    if package == "dip_env":
        forbidden |= HEAVY
    return forbidden & set(imported(source))


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_what_stands_before_them(package):
    files = sorted(FOLDERS[package].rglob("*.py"))
    if package != "examples":
        assert files
    wrong = {str(f.relative_to(ROOT)): wrong_imports(package, f.read_text()) for f in files}
    assert {name: names for name, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("dip_env", "def f():\n    if True:\n        import dip_agents.policies.base"),
        ("dip_env", "from dip_wrappers import chat"),
        ("dip_env", "import numpy, torch.nn"),
        ("dip_env", "import importlib\nimportlib.import_module('torch')"),
        ("dip_wrappers", "class A:\n    def f(self):\n        from dip_agents import policy"),
        ("dip_agents", "import examples.play"),
    ],
)
def test_the_check_sees_a_wrong_import_at_any_depth(package, source):
    assert wrong_imports(package, source)


def test_the_check_lets_the_right_imports_pass():
    assert not wrong_imports("dip_agents", "import torch\nfrom dip_env import Episode")
    assert not wrong_imports("dip_wrappers", "import dip_env")


def loaded_after(statement: str) -> set[str]:
    """Return the heavy packages that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_dip_env_loads_without_torch():
    everything = (
        "import importlib, pkgutil, dip_env\n"
        "names = [m.name for m in pkgutil.walk_packages(dip_env.__path__, 'dip_env.')]\n"
        "assert len(names) > 60\n"
        "for name in names: importlib.import_module(name)"
    )
    assert loaded_after(everything) == set()


def test_the_torch_check_can_fail():
    assert loaded_after("sys.modules['torch'] = sys\nimport dip_env") == {"torch"}
