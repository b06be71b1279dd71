"""The errors a user can meet, as one small tree."""

from __future__ import annotations


class DipError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(DipError, ValueError):
    """A setting has a value that cannot work; the message names it."""


class SceneError(DipError, ValueError):
    """A scene or its files are unusable; the message names the file and the field."""


class ActionParseError(DipError, ValueError):
    """An action does not follow the grammar; ``position`` is the offset in the text.

    Args:
        message: what was expected and what came.
        position: offset in characters where parsing stopped.
    """

    def __init__(self, message: str, position: int) -> None:
        """Store the position and put it into the message."""
        super().__init__(f"at character {position}: {message}")
        self.position = position


class ActionRefusedError(DipError, ValueError):
    """A well-formed action cannot be carried out, such as a look beyond the budget."""


class EpisodeOverError(DipError, RuntimeError):
    """An action came after the episode had ended."""
