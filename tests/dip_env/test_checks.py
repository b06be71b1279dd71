"""A setting is a number, a count or a flag, of numpy or of Python, not what looks like one."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dip_env.checks import check_bytes, check_flag, check_integer, check_number
from dip_env.errors import ConfigError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_numpy_become_plain_ones(value):
    assert type(check_integer("n", value, 0)) is int
    assert check_integer("n", value, 0, 3) == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, "3", None, np.array([3]), np.array(3), [3]])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ConfigError, match="n: expected an integer >= 0, got "):
        check_integer("n", value, 0)


def test_integers_out_of_range_are_refused_however_long():
    with pytest.raises(ConfigError, match="n: expected an integer >= 4, got 3"):
        check_integer("n", 3, 4)
    with pytest.raises(ConfigError, match="n: expected an integer <= 9, got an integer of"):
        check_integer("n", 10**5000, 0, 9)


def test_numbers_keep_their_value_and_lose_their_library():
    assert check_number("x", 2, 0) == 2 and type(check_number("x", 2, 0)) is int
    assert type(check_number("x", np.float32(0.5), 0)) is float
    assert check_number("x", Fraction(1, 4), 0, 1) == 0.25


@pytest.mark.parametrize(
    "value", ["1", None, True, np.False_, math.nan, math.inf, -1, 10**400, np.array([1.0]), 1j]
)
def test_what_is_no_number_in_range_is_refused(value):
    with pytest.raises(ConfigError, match="x: expected a number from 0 to 9, got "):
        check_number("x", value, 0, 9)


def test_flags_are_true_or_false_and_no_text():
    assert check_flag("f", np.True_) is True and check_flag("f", False) is False
    for value in ("no", "false", 0, 1, None):
        with pytest.raises(ConfigError, match="f: expected True or False, got "):
            check_flag("f", value)


def test_what_would_not_fit_is_refused_with_the_limit():
    check_bytes("n", 2**30, 2**30, "crops")
    with pytest.raises(ConfigError, match="n: expected crops of at most 1 GiB, got 3"):
        check_bytes("n", 3 * 2**30, 2**30, "crops")
