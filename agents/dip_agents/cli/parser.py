"""From the words behind a command to the options that were given; every mistake is one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from dip_agents.cli.options import Option, UsageError, did_you_mean

CONFIG = "config"
"""The option of every command that names a file of settings."""


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print, in the words of all other messages."""
        message = message.removeprefix("argument ")
        for theirs, ours in _WORDING.items():
            message = re.sub(theirs, ours, message)
        raise UsageError(message)


_WORDING = {
    "expected one argument$": "expected a value, got none",
    "expected at least one argument$": "expected at least one value, got none",
    "^the following arguments are required: (.*)": r"\1: expected a value, got none",
}
_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
"""How a negative number begins; argparse would take -1e-5 for an option."""


def parse(options: Iterable[Option], words: Sequence[str]) -> dict[str, Any]:
    """Read the options that were typed.

    Args:
        options: of the command.
        words: behind the command's name.

    Returns:
        Values by the option's name, of the given ones only; ``config`` where a file was named.

    Raises:
        UsageError: for an unknown option or a value that cannot be read; names it as typed.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser._negative_number_matcher = _NEGATIVE
    parser.add_argument("--config", metavar="FILE")
    known = {"--config", "--help"}
    for option in options:
        known |= _add(parser, option)
    try:
        found, rest = parser.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise UsageError(str(error).removeprefix("argument ")) from error
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            raise UsageError(f"unknown option {flag!r}{did_you_mean(flag, known)}")
        raise UsageError(f"expected an option, got {word!r}")
    many = {option.name for option in options if option.kind.many}
    return {
        name: tuple(value) if name in many else value
        for name, value in vars(found).items()
        if value != argparse.SUPPRESS
    }


def _add(parser: _Parser, option: Option) -> set[str]:
    """Tell argparse about an option; returns its flags."""
    kind = option.kind
    if kind.switch:
        negative = option.flag.replace("--", "--no-", 1)
        parser.add_argument(option.flag, dest=option.name, action="store_const", const=True)
        parser.add_argument(negative, dest=option.name, action="store_const", const=False)
        return {option.flag, negative}

    def read(word: str) -> Any:
        if word == argparse.SUPPRESS:  # argparse reads the default of what stands at a place
            return word
        try:
            return kind.read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    if option.positional:
        count = ("+" if option.default is None else "*") if kind.many else "?"
        if not kind.many and option.default is None:
            parser.add_argument(option.name, type=read, metavar=option.flag)
        else:
            parser.add_argument(option.name, type=read, metavar=option.flag, nargs=count)
        return set()
    if kind.many:
        parser.add_argument(option.flag, dest=option.name, type=read, nargs="+", action="extend")
    else:
        parser.add_argument(option.flag, dest=option.name, type=read)
    return {option.flag}
