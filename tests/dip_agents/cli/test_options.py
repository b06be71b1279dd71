from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dip_agents.cli.options import did_you_mean, kind_of, options_of


@dataclass(frozen=True)
class Inner:
    """Inside."""

    size: int = 3
    """How ``large``; in
    pixels."""
    name: str | None = None
    """Called so."""


@dataclass(frozen=True)
class Outer:
    """Outside."""

    inner: Inner = field(default_factory=Inner)
    fast: bool = False
    """Hurry."""
    rates: tuple[float, ...] = (0.5,)
    """Several."""

    HEADINGS = {Inner: "Inside"}  # noqa: RUF012
    RENAMED = {("inner", "name"): "label"}  # noqa: RUF012


def test_fields_of_fields_are_options_under_their_heading():
    size, label, fast, rates = options_of(Outer)
    assert (size.flag, size.path, size.heading) == ("--size", ("inner", "size"), "Inside")
    assert size.help == "How large; in\npixels."
    assert (label.flag, label.path) == ("--label", ("inner", "name"))
    assert (fast.heading, fast.kind.switch) == ("Run", True)
    assert (rates.kind.many, rates.default) == (True, (0.5,))


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [
        (int, "-3", -3),
        (float, "1e-5", 1e-5),
        (str, "a b", "a b"),
        (Path, "~/x", Path("~/x")),
        (int | None, "none", None),
        (int | None, "7", 7),
        (Literal[0, 1, 2], "2", 2),
        (Literal["a", "b"], "b", "b"),
    ],
)
def test_a_word_becomes_a_value_of_the_fields_type(hint, word, value):
    found = kind_of(hint).read(word)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "word", "message"),
    [
        (int, "1.5", "expected an integer, got '1.5'"),
        (float, "much", "expected a number, got 'much'"),
        (bool, "yes", "expected true or false, got 'yes'"),
        (Literal["token_mean", "sequence_mean"], "token_men", "did you mean 'token_mean'?"),
    ],
)
def test_a_word_that_is_none_says_what_was_expected(hint, word, message):
    with pytest.raises(ValueError, match="expected") as error:
        kind_of(hint).read(word)
    assert message in str(error.value)


def test_a_type_that_no_option_can_have_is_an_error_of_the_program():
    with pytest.raises(TypeError, match="expected a type that an option can have"):
        kind_of(dict[str, int])


def test_one_name_for_two_fields_is_an_error_of_the_program():
    @dataclass(frozen=True)
    class Twice:
        inner: Inner = field(default_factory=Inner)
        size: int = 1

    Twice.__annotations__.update(inner=Inner, size=int)
    with pytest.raises(TypeError, match=r"\['size'\] twice"):
        options_of(Twice)


def test_a_suggestion_is_made_for_close_words_only():
    assert did_you_mean("--stepz", ["--steps", "--seed"]) == "; did you mean '--steps'?"
    assert did_you_mean("x", ["--steps"]) == ""
