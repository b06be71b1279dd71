"""``dip completion``: a script that completes commands, options and choices in a shell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.options import Option, options_of
from dip_agents.cli.settings import Resolved

EXAMPLES = (
    "source <(dip completion bash)",
    "dip completion zsh > ~/.zfunc/_dip",
    "dip completion fish > ~/.config/fish/completions/dip.fish",
)


@dataclass(frozen=True)
class Settings:
    """Print a script that completes commands, options and choices in a shell."""

    shell: Literal["bash", "zsh", "fish"]
    """Shell to print the script for."""

    POSITIONAL = ("shell",)


def run(resolved: Resolved[Settings]) -> int:
    """Print the script.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    scripts = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
    print(scripts[resolved.settings.shell](), end="")
    return 0


def _all_options() -> Iterator[tuple[str, tuple[Option, ...]]]:
    for command in COMMANDS.values():
        yield command.name, options_of(command.load().Settings)


def _flags(options: tuple[Option, ...]) -> list[str]:
    found = ["--config", "--help"]
    for option in options:
        if not option.positional:
            found.append(option.flag)
            if option.kind.switch:
                found.append(option.flag.replace("--", "--no-", 1))
    return found


def bash_script() -> str:
    """Return the completion of bash, which zsh reads as well."""
    lines = ["_dip() {", '  local word="${COMP_WORDS[COMP_CWORD]}"']
    lines += ['  local previous="${COMP_WORDS[COMP_CWORD-1]}" words=""']
    lines += [
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    words="{" ".join(COMMANDS)} help --help --version"',
    ]
    lines += ['  elif [ "${COMP_WORDS[1]}" = help ]; then', f'    words="{" ".join(COMMANDS)}"']
    lines += ["  else", '    case "${COMP_WORDS[1]} $previous" in']
    for name, options in _all_options():
        for option in options:
            if option.kind.choices and not option.positional:
                choices = " ".join(option.kind.choices)
                lines.append(f'      "{name} {option.flag}") words="{choices}" ;;')
        # Without words, bash completes names of files.
        files = [o.flag for o in options if not (o.positional or o.kind.switch or o.kind.choices)]
        patterns = "|".join(f'"{name} {flag}"' for flag in ["--config", *files])
        lines.append(f"      {patterns}) COMPREPLY=(); return ;;")
        if any(o.positional and not o.kind.choices for o in options):
            lines.append(f'      "{name} "*) [[ "$word" != -* ]] && COMPREPLY=() && return ;;')
    lines += ["    esac", '    [ -z "$words" ] && case "${COMP_WORDS[1]}" in']
    for name, options in _all_options():
        words = [choice for o in options if o.positional for choice in o.kind.choices]
        lines.append(f'      {name}) words="{" ".join([*words, *_flags(options)])}" ;;')
    lines += ["    esac", "  fi", '  COMPREPLY=($(compgen -W "$words" -- "$word"))']
    lines += ["}", "complete -o default -F _dip dip"]
    return "\n".join(lines) + "\n"


def zsh_script() -> str:
    """Return the completion of zsh."""
    return "#compdef dip\nautoload -U +X bashcompinit && bashcompinit\n" + bash_script()


def fish_script() -> str:
    """Return the completion of fish."""
    lines = ["complete -c dip -f"]
    for command in COMMANDS.values():
        lines.append(
            f"complete -c dip -n __fish_use_subcommand -a {command.name} -d '{command.summary}'"
        )
    for name, options in _all_options():
        seen = f"complete -c dip -n '__fish_seen_subcommand_from {name}'"
        lines.append(f"{seen} -l config -r -F -d 'read settings from a file'")
        for option in options:
            help_ = option.help.split(". ")[0].replace("'", "")[:80]
            if option.positional:
                if option.kind.choices:
                    lines.append(f"{seen} -a '{' '.join(option.kind.choices)}'")
                continue
            flag = option.flag.removeprefix("--")
            if option.kind.switch:
                lines.append(f"{seen} -l {flag} -d '{help_}'")
                lines.append(f"{seen} -l no-{flag}")
            elif option.kind.choices:
                lines.append(
                    f"{seen} -l {flag} -x -a '{' '.join(option.kind.choices)}' -d '{help_}'"
                )
            else:
                files = "-r -F" if option.kind.name == "PATH" else "-x"
                lines.append(f"{seen} -l {flag} {files} -d '{help_}'")
    return "\n".join(lines) + "\n"
