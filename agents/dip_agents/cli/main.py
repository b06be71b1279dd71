"""The entry point of ``dip``: finds the command, runs it, and tells errors in one line.

Exits with 0, with 1 where a check found something (an audit, ``dip doctor``), with 2 on bad input
and on errors, and with 130 where a signal stopped it. Arguments are read without loading what
trains and samples: that takes seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from dip_agents.cli.commands import COMMANDS, Command, overview

DEBUG = "DIP_TRACEBACK"
"""Environment variable that, when set, lets unexpected exceptions print their whole traceback."""

EXTRAS = {
    **dict.fromkeys(("docstring_parser", "rich", "yaml"), "cli"),
    **dict.fromkeys(("torch", "transformers"), "train"),
    "matplotlib": "play",
}
"""The smallest extra that has a package, whatever the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: instead of those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # as of ``dip help train | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell names the end by SIGPIPE
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run a command line.

    Args:
        words: without the program's name.

    Returns:
        The exit code.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0
    if words[0] == "--version":
        print(versions())
        return 0
    if words[0] == "help":
        return _help(words[1:])
    command = COMMANDS.get(words[0])
    if command is None:
        return _unknown(words[0])
    return _run_command(command, words[1:])


def versions() -> str:
    """Return the versions that matter for results, from the packages' metadata."""
    found = []
    for name in ("torch", "transformers", "pillow"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    python = ".".join(map(str, sys.version_info[:3]))
    return f"dip-env {version('dip-env')} ({', '.join(found)}, python {python})"


def _help(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    from dip_agents.cli.help import long_help

    command = COMMANDS.get(words[0])
    if command is None:
        return _unknown(words[0])
    print(long_help(command), end="")
    return 0


def _unknown(word: str) -> int:
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; dip --help lists them"
    what = "option" if word.startswith("-") else "command"
    print(f"dip: no {what} {word!r}{hint}", file=sys.stderr)
    return 2


def _run_command(command: Command, words: Sequence[str]) -> int:
    from dip_agents.runtime.errors import error_line
    from dip_agents.runtime.interrupts import StopRequestedError
    from dip_env.errors import DipError

    try:
        module = command.load()
        if {"-h", "--help"} & set(words):
            from dip_agents.cli.help import short_help

            print(short_help(command), end="")
            return 0
        return _run_module(command, module, words)
    except StopRequestedError as error:
        return _tell(command, KeyboardInterrupt(), error_line(error))
    except DipError as error:
        return _tell(command, error, str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("dip_env", "dip_agents"):
            raise
        extra = EXTRAS.get(error.name.partition(".")[0], command.extra)
        message = (
            f'expected the package {error.name!r}, which is missing: pip install "dip-env[{extra}]"'
        )
        return _tell(command, error, message)
    except KeyboardInterrupt:
        return _tell(command, KeyboardInterrupt(), "interrupted")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise
        if os.environ.get(DEBUG):
            raise
        return _tell(command, error, _unexpected(error))


def _run_module(command: Command, module: object, words: Sequence[str]) -> int:
    from dip_agents.cli.options import options_of
    from dip_agents.cli.settings import as_typed, resolve
    from dip_agents.runtime.interrupts import StopRequestedError
    from dip_env.errors import DipError

    settings = module.Settings  # type: ignore[attr-defined]
    try:
        return int(module.run(resolve(settings, command.name, words)))  # type: ignore[attr-defined]
    except StopRequestedError:
        raise
    except DipError as error:
        return _tell(command, error, as_typed(str(error), options_of(settings)))


def _name_options(message: str) -> str:
    """Name the option where a message of the library speaks of resuming."""
    for theirs, ours in _RESUMING.items():
        message = message.replace(theirs, ours)
    return message


_RESUMING = {
    "go on from there with resume_from": "go on from there with --resume-from",
    "go on from there with resume": "go on from there with --resume",
    "set resume to go on from there": "--resume goes on from there",
}


def _reader_is_gone() -> bool:
    """Return whether it was standard output that broke, and not a pipe to a process of the run."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _tell(command: Command, error: BaseException, message: str) -> int:
    print(f"dip {command.name}: {_name_options(message)}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"  {_name_options(note)}", file=sys.stderr)
    return 130 if isinstance(error, KeyboardInterrupt) else 2


def _unexpected(error: Exception) -> str:
    """Save the traceback of an error that is not the user's, and say in a line where it is."""
    text = f"{versions()}\ndip {' '.join(sys.argv[1:])}\n\n"
    text += "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="dip-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as unsaved:
        path = f"no file: {unsaved.strerror}"
    said = " ".join(str(error).split())
    return (
        f"unexpected {type(error).__name__}: {said[:200]} (traceback in {path}; "
        "dip doctor checks the installation)"
    )


if __name__ == "__main__":  # for launchers, which start modules
    main()
