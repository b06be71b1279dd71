from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from dip_agents.cli.options import UsageError, options_of
from dip_agents.cli.parser import parse


@dataclass(frozen=True)
class Flags:
    """Some."""

    runs: tuple[Path, ...]
    """Folders."""
    steps: int = 1
    """Steps."""
    rate: float = 0.1
    """Rate."""
    fast: bool = True
    """Hurry."""
    names: tuple[str, ...] = ()
    """Several."""
    loss: Literal["a", "b"] = "a"
    """One of two."""

    POSITIONAL = ("runs",)


OPTIONS = options_of(Flags)


def test_only_what_was_typed_is_returned():
    assert parse(OPTIONS, ["x"]) == {"runs": (Path("x"),)}
    words = ["x", "y", "--steps=3", "--no-fast", "--names", "a", "b", "--names", "c"]
    found = {"runs": (Path("x"), Path("y")), "steps": 3, "fast": False, "names": ("a", "b", "c")}
    assert parse(OPTIONS, [*words, "--config", "c.toml"]) == {**found, "config": "c.toml"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--stepz", "3"], "unknown option '--stepz'; did you mean '--steps'?"),
        (["x", "--step", "3"], "unknown option '--step'; did you mean '--steps'?"),
        (["x", "--steps"], "--steps: expected a value, got none"),
        (["x", "--steps", "abc"], "--steps: expected an integer, got 'abc'"),
        (["x", "--names"], "--names: expected at least one value, got none"),
        (["x", "--rate", "nan"], "--rate: expected a finite number, got 'nan'"),
        (["x", "--rate", "-inf"], "--rate: expected a finite number, got '-inf'"),
        ([""], "RUNS: expected a path, got ''"),
        (["x", "--loss", "c"], "--loss: expected one of a, b, got 'c'"),
        ([], "RUNS: expected a value, got none"),
    ],
)
def test_a_mistake_is_reported_with_the_option_as_it_was_typed(words, message):
    with pytest.raises(UsageError) as error:
        parse(OPTIONS, words)
    assert str(error.value) == message


@pytest.mark.parametrize("word", ["-1", "-.5", "-1e-5", "-2.5E+3"])
def test_a_negative_number_is_a_value(word):
    assert parse(OPTIONS, ["x", "--rate", word])["rate"] == float(word)
