"""Where the think of a turn lies, when it is not a part of the turn's text.

Some chat templates open the think in the generation prompt, so that a model writes its end only;
some servers move the think into a field of its own. Both are put together to one action here.
"""

from __future__ import annotations

from dip_env.actions import as_thought
from dip_env.errors import ConfigError
from dip_wrappers.chat import plain_text

OPENING, CLOSING = "<think>", "</think>"
SEGMENTS = (OPENING, "<look>", "<answer>")


def whole_action(text: str, thought: str | None = None, *, truncated: bool = False) -> str:
    """Return what a model said in one turn as one action.

    Args:
        text: of the turn. One that closes a think which it does not open was opened by the
            generation prompt, and gets the opening tag.
        thought: reasoning that a server has moved out of the text, if any. Since the server marks
            where it ends, tags quoted inside it are broken up.
        truncated: a token limit ended the turn; a thought without text behind it stays unclosed.

    Returns:
        The action, as the grammar reads it.
    """
    if not thought:
        before, closing, _ = text.partition(CLOSING)
        return OPENING + text if closing and OPENING not in before else text
    inside = as_thought(plain_text(thought)).text
    closed = text.lstrip().startswith(CLOSING) or (truncated and not text)
    return f"{OPENING}{inside}{'' if closed else CLOSING}{text}"


def open_think(generation_prompt: str) -> str:
    """Return the tag of the think that a generation prompt leaves open, or an empty text.

    Args:
        generation_prompt: what a chat template writes behind the last message.

    Raises:
        ConfigError: for one that also begins the think's text, which no policy wrote.
    """
    start = generation_prompt.rfind(OPENING)
    if start <= generation_prompt.rfind(CLOSING):
        return ""
    begun = generation_prompt[start + len(OPENING) :].strip()
    if begun:
        raise ConfigError(
            f"chat template: expected nothing behind the {OPENING} it opens, got {begun[:40]!r}"
        )
    return OPENING


def own_part(action: str, opened: str) -> str:
    """Return what of an action the model writes itself, behind its generation prompt.

    Args:
        action: as the grammar reads it.
        opened: from ``open_think``.

    Returns:
        The action without the tag that the prompt holds. An action that begins with another
        segment closes that think first.
    """
    if not opened or not action.startswith(SEGMENTS):
        return action
    return action.removeprefix(opened) if action.startswith(opened) else CLOSING + action
