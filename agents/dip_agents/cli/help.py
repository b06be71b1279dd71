"""What ``--help`` and ``dip help`` print; plain text that fits any terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from dip_agents.cli.commands import Command
from dip_agents.cli.options import Option, options_of
from dip_agents.cli.settings import value_at

INDENT = 26
"""Column in which the help of an option begins."""


def short_help(command: Command) -> str:
    """Return the usual options of a command, a line each, and examples.

    Args:
        command: its module says which options are usual.

    Returns:
        Text of at most 45 lines.
    """
    module = command.load()
    options = options_of(module.Settings)
    values = _defaults(module.Settings, options)
    usual = getattr(module.Settings, "USUAL", tuple(option.name for option in options))
    width = _width()
    lines = [_usage(command, options), "", *textwrap.wrap(_about(module.Settings), width), ""]
    by_name = {option.name: option for option in options}
    for name in usual:
        option = by_name[name]
        sentence = re.split(r"(?<=[.;:]) ", option.help)[0].rstrip(".;:")
        default = _default(values.get(name), option)
        default = default if len(default) <= INDENT else ""
        left = _left(option)
        room = max(10, width - len(left) - len(default))
        lines.append(left + textwrap.shorten(sentence, room, placeholder=" ...") + default)
    lines += ["", "examples:", *_examples(module), ""]
    if len(usual) < len(options):
        lines.append(f"dip help {command.name} lists all {len(options) + 1} options.")
    else:
        about = textwrap.shorten(
            "read settings from a .toml, .yaml or .json file", width - INDENT, placeholder=" ..."
        )
        lines.append(f"{'  --config FILE':<{INDENT}}{about}")
    return "\n".join(lines) + "\n"


def long_help(command: Command) -> str:
    """Return every option of a command, by topic, with its whole help.

    Args:
        command: the command.
    """
    module = command.load()
    options = options_of(module.Settings)
    values = _defaults(module.Settings, options)
    lines = [_usage(command, options), "", *textwrap.wrap(_about(module.Settings), _width())]
    for heading in dict.fromkeys(option.heading for option in options):
        lines += ["", heading]
        for option in options:
            if option.heading == heading:
                lines += _entry(option, values.get(option.name))
    lines += ["", "Settings files", *_wrapped("  --config FILE", CONFIG_HELP)]
    lines += ["", "examples:", *_examples(module)]
    return "\n".join(lines) + "\n"


def _examples(module: ModuleType) -> Iterator[str]:
    for example in module.EXAMPLES:
        yield textwrap.indent(example, "  ")


CONFIG_HELP = (
    "Read settings from a .toml, .yaml or .json file, whose keys are the names of options; what is "
    "typed wins. dip config COMMAND prints such a file, and every run writes one."
)


def _usage(command: Command, options: Iterable[Option]) -> str:
    words = [_positional(option) for option in options if option.positional]
    return " ".join(["usage: dip", command.name, *words, "[OPTIONS]"])


def _positional(option: Option) -> str:
    word = option.flag + (" ..." if option.kind.many else "")
    return word if option.default is None else f"[{word}]"


def _about(settings: type) -> str:
    return " ".join((settings.__doc__ or "").split())


def _defaults(settings: Any, options: Iterable[Option]) -> Mapping[str, Any]:
    """Return the default of each option, with the bundled model's rules where a model has any."""
    if hasattr(settings, "defaults"):
        start = settings.defaults({})
        return {option.name: value_at(start, option.path) for option in options}
    return {option.name: option.default for option in options}


def _default(value: Any, option: Option) -> str:
    if option.kind.switch:
        return "  [on]" if value else ""
    if value is None or value == () or option.positional:
        return ""
    return f"  [{' '.join(map(str, value)) if isinstance(value, tuple) else value}]"


def _left(option: Option) -> str:
    """Return the flag and its value, padded to where the help begins."""
    kind = option.kind
    # Choices are listed in the long help; here they would push the sentences away.
    value = "" if kind.switch else " " + ("CHOICE" if kind.choices else kind.name)
    flag = option.flag.replace("--", "--[no-]", 1) if kind.switch else option.flag
    text = f"  {flag}{'' if option.positional else value}{' ...' if kind.many else ''}"
    return f"{text:<{INDENT}}" if len(text) < INDENT - 1 else f"{text}  "


def _entry(option: Option, value: Any) -> Iterator[str]:
    left = _left(option).rstrip()
    explained = _choices(option)
    text = option.help if explained is None else explained[0]
    yield from _wrapped(left, text + _default(value, option).replace("  [", " ["))
    for choice, meaning in (explained[1] if explained else {}).items():
        yield from textwrap.wrap(
            f"{choice}: {meaning}",
            _width(),
            initial_indent=" " * (INDENT + 2),
            subsequent_indent=" " * (INDENT + 4),
        )


def _choices(option: Option) -> tuple[str, dict[str, str]] | None:
    """Split help such as ``one: this; two: that`` into its choices; else only list them."""
    choices = option.kind.choices
    if not choices:
        return None
    names = "|".join(map(re.escape, choices))
    parts = re.split(rf"(?:^|(?<=[;.] ))({names}): ", option.help)
    if len(parts) < 2 * len(choices) + 1:
        return f"{option.help} One of {', '.join(choices)}.", {}
    meanings = (text.rstrip(" ;.") for text in parts[2::2])
    return parts[0].strip(), dict(zip(parts[1::2], meanings, strict=True))


def _wrapped(left: str, text: str) -> list[str]:
    lines = textwrap.wrap(
        text, _width(), initial_indent=" " * INDENT, subsequent_indent=" " * INDENT
    ) or [""]
    if len(left) < INDENT:
        return [left + lines[0][len(left) :], *lines[1:]]
    return [left, *lines]


def _width() -> int:
    return min(100, max(60, shutil.get_terminal_size().columns))
