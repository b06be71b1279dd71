"""Tool conversations of Qwen-VL models: their chat template, and how calls are parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
"""How transformers finds the calls in a model's output; ``<think>`` stays a part of the text."""


def use_tool_template(processor: Any) -> None:
    """Make a Qwen-VL processor format and parse tool calls.

    Args:
        processor: of Qwen2.5-VL or Qwen3-VL. Its chat template and its tokenizer's response
            template are replaced.
    """
    processor.chat_template = TOOL_TEMPLATE
    processor.tokenizer.response_template = RESPONSE_TEMPLATE
