"""The token cost of replies to tool calls, and an episode that keeps to a token budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dip_env.actions import Segment
from dip_env.boxes import Boxes
from dip_env.episode import Episode
from dip_env.errors import ActionRefusedError, ConfigError
from dip_env.messages import Message, Turn
from dip_env.views import Crop
from dip_wrappers.chat import to_chat

Parts = list[dict[str, Any]]

_CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
_BEFORE = [
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": [], "tool_calls": [_CALL]},
]
"""A conversation that a reply can follow."""


def parts_of(message: Message) -> Parts:
    """Return a message's text and images in the order they are read, as chat templates take them.

    Error messages quote the policy's text, so special tokens spelled out in it are broken up: a
    placeholder without an image would end the training.
    """
    (chat,) = to_chat([message])
    return list(chat["content"])


@dataclass(frozen=True)
class TokenBudget:
    """The token budget of a rollout, and what replies to tool calls cost.

    Args:
        processor: of the model, with the trainer's chat template. It must keep images in their own
            size, see ``Task.check_processor``.
        max_completion_length: tokens of a rollout after its prompt, replies and images included.
        reserve: tokens kept for the answer, and for text outside tool calls, which no tool
            receives.

    Raises:
        ConfigError: when the reserve leaves nothing.
    """

    processor: Any
    max_completion_length: int
    reserve: int

    def __post_init__(self) -> None:
        """Check that there is something to spend."""
        if not 0 <= self.reserve < self.max_completion_length:
            raise ConfigError(
                f"reserve: expected 0..{self.max_completion_length - 1}, less than "
                f"max_completion_length, got {self.reserve}"
            )

    @property
    def room(self) -> int:
        """Tokens that calls and replies may take together."""
        return self.max_completion_length - self.reserve

    def text(self, text: str) -> int:
        """Return the tokens of a text."""
        return len(self.processor.tokenizer.encode(text, add_special_tokens=False))

    def reply(self, parts: Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of a tool message, from the end of turn before it to the next turn.

        Args:
            parts: text and images (PIL) of the message.
        """
        chat = [*_BEFORE, {"role": "tool", "name": "look", "content": list(parts)}]
        head = self.processor.apply_chat_template(_BEFORE, tokenize=False)
        whole = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        tokens = self.text(whole[len(head.rstrip("\n")) :])
        for part in parts:
            if part["type"] == "image":
                # A placeholder has been counted as one token.
                tokens += self._image(part["image"].height, part["image"].width) - 1
        return tokens

    def _image(self, height: int, width: int) -> int:
        images = self.processor.image_processor
        return height * width // (int(images.patch_size) * int(images.merge_size)) ** 2


class BudgetedEpisode(Episode):
    """An episode that refuses looks whose crops do not fit; see ``Episode`` for other arguments.

    Args:
        budget: of the rollout.
    """

    def __init__(self, *args: Any, budget: TokenBudget, **options: Any) -> None:
        """Start with nothing spent."""
        super().__init__(*args, **options)
        self.budget = budget
        self.spent = 0
        """Tokens of calls and replies so far."""
        self.looks_without_room = 0
        """Actions refused because their crops did not fit."""
        self._objection: str | None = None

    def call(self, action: str, tokens: int, objection: str | None = None) -> Turn:
        """Take a tool call as an action.

        Args:
            action: the call in the action grammar.
            tokens: cost of the call as the policy wrote it.
            objection: why the call is refused although the action is well-formed.

        Returns:
            The turn, unscored.

        Raises:
            EpisodeOverError: when the episode has ended.
        """
        self.spent += tokens
        self._objection = objection
        return self.advance(action)

    def regions_of(self, segments: tuple[Segment, ...]) -> Boxes:
        """Return what the looks would show, or refuse a call that was objected to."""
        if self._objection is not None:
            raise ActionRefusedError(self._objection)
        return super().regions_of(segments)

    def show(
        self, segments: tuple[Segment, ...], regions: Boxes
    ) -> tuple[tuple[Crop, ...], Message | None]:
        """Return one action's crops and their message, or refuse a message that does not fit."""
        crops, reply = super().show(segments, regions)
        if reply is not None:
            tokens = self.budget.reply(parts_of(reply))
            room = max(0, self.budget.room - self.spent)
            if tokens > room:
                self.looks_without_room += 1
                raise ActionRefusedError(
                    f"expected a look that fits into the {room} tokens left, got one of {tokens}"
                )
        return crops, reply
