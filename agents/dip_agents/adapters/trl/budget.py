"""What replies to tool calls cost in tokens, and the episode that keeps to a budget of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dip_env.actions import Segment
from dip_env.boxes import Boxes
from dip_env.episode import Episode, Message
from dip_env.errors import ActionRefusedError, ConfigError
from dip_env.views import Crop
from dip_wrappers.chat import to_chat

Parts = list[dict[str, Any]]

_CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
_BEFORE = [
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": [], "tool_calls": [_CALL]},
]
"""A conversation to hang a reply on."""


def parts_of(message: Message) -> Parts:
    """Return a message's text and images in the order they are read, as chat templates take them.

    What the policy said is quoted in error messages, so special tokens it spells out are undone:
    a placeholder without an image would end the training.
    """
    (chat,) = to_chat([message])
    return list(chat["content"])


@dataclass(frozen=True)
class TokenBudget:
    """What the replies to tool calls cost, and how much there is.

    Args:
        processor: of the model, with the template that the trainer uses.
            Shows images in their own size, see ``Task.check_processor``.
        max_completion_length: tokens of a rollout behind its prompt, replies and images included.
        reserve: tokens kept for the answer, and for what a model says outside its calls, which
            no tool gets to see.

    Raises:
        ConfigError: when nothing is left beside the reserve.
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
        budget: what calls and replies may cost.
    """

    def __init__(self, *args: Any, budget: TokenBudget, **options: Any) -> None:
        """Start with nothing spent."""
        super().__init__(*args, **options)
        self.budget = budget
        self.spent = 0
        """Tokens of calls and replies so far."""
        self.looks_without_room = 0
        """Actions refused because their crops did not fit."""
        self.objection: str | None = None
        """What is wrong with the next action that its text does not show."""

    def regions_of(self, segments: tuple[Segment, ...]) -> Boxes:
        """Return what the looks of one action would show, (R, 4) scene frame, or refuse."""
        if self.objection is not None:
            raise ActionRefusedError(self.objection)
        return super().regions_of(segments)

    def show(
        self, segments: tuple[Segment, ...], regions: Boxes
    ) -> tuple[tuple[Crop, ...], Message | None]:
        """Return one action's crops and their message, or refuse what has no room."""
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
