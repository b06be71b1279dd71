"""No giants: how long functions and modules may be, and how much a constructor takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dip_env", "wrappers/dip_wrappers", "agents/dip_agents")
FUNCTION, LONGEST, MODULE, ARGUMENTS = 60, 90, 400, 8
OPTIONS = {
    # Each is a documented keyword of make_source, as its data set has them; never positional.
    "UAVDTScenes",
    "WiderPedestrianScenes",
}
"""Readers whose constructors take more keywords than others."""


def trees() -> Iterator[tuple[str, str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    docstring = ast.get_docstring(function, clean=False) is not None
    return (
        function.end_lineno
        - function.lineno
        + 1
        - docstring * (first.end_lineno - first.lineno + 1)
    )


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def wide_constructors(tree: ast.Module) -> dict[str, int]:
    """Return the classes whose own ``__init__`` takes more arguments than allowed."""
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or is_dataclass(node):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                count = len(function.args.args) - 1 + len(function.args.kwonlyargs)
                if count > ARGUMENTS:
                    found[node.name] = count
    return found


def test_at_most_three_functions_are_long_and_none_is_a_giant():
    long = {
        f"{name}: {node.name}": code_lines(node)
        for name, _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > FUNCTION
    }
    assert len(long) <= 3, long
    assert max(long.values(), default=0) <= LONGEST, long


def test_no_module_is_long():
    long = {name: len(text.splitlines()) for name, text, _ in trees()}
    assert {name: count for name, count in long.items() if count > MODULE} == {}


def test_constructors_take_few_arguments():
    wide = {name: found for name, _, tree in trees() if (found := wide_constructors(tree))}
    assert {name for found in wide.values() for name in found} <= OPTIONS, wide


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f():\n    '''One\n    two.'''\n    a = 1\n    return a", 3),
        ("async def f(\n    a,\n):\n    return a", 4),
    ],
)
def test_lines_are_counted_without_the_docstring(source, count):
    assert code_lines(ast.parse(source).body[0]) == count


def test_the_check_of_constructors_can_fail():
    names = ", ".join(f"a{k}" for k in range(9))
    assert wide_constructors(ast.parse(f"class A:\n    def __init__(self, {names}): pass")) == {
        "A": 9
    }
    made = f"@dataclass\nclass A:\n    def __init__(self, {names}): pass"
    assert not wide_constructors(ast.parse(made))
