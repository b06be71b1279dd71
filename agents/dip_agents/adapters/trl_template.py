"""Tool conversations of Qwen-VL models: how they read, how they are parsed, what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dip_env.errors import ConfigError

TOOL_TEMPLATE = Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8")
"""Chat template with tools; Qwen2.5-VL's own has none, and TRL refuses it."""

RESPONSE_TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""How transformers finds the calls in what a model wrote; ``<think>`` stays a part of the text."""

_CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
_BEFORE = [
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": [], "tool_calls": [_CALL]},
]
"""A conversation to hang a reply on."""


def use_tool_template(processor: Any) -> None:
    """Let a Qwen-VL processor write and read tool calls.

    Args:
        processor: of Qwen2.5-VL or Qwen3-VL. Its chat template and its tokenizer's response
            template are replaced.
    """
    processor.chat_template = TOOL_TEMPLATE
    processor.tokenizer.response_template = RESPONSE_TEMPLATE


@dataclass(frozen=True)
class TokenBudget:
    """What the replies to tool calls cost, and how much there is.

    Args:
        processor: of the model, with the template that the trainer uses.
        max_completion_length: tokens of a rollout behind its prompt, replies and images included.
        reserve: tokens kept for the answer, and for what a model says outside its calls, which
            no tool gets to see.

    Raises:
        ConfigError: when nothing is left beside the reserve.
    """

    processor: Any
    max_completion_length: int
    reserve: int = 256

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
        return images.get_number_of_image_patches(height, width) // int(images.merge_size) ** 2
