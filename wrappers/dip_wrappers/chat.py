"""The environment as a chat: messages with images, as processors and servers take them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.errors import ConfigError
from dip_env.messages import Message

ChatFormat = Literal["processor", "openai"]
"""``processor``: PIL images beside the text, for ``processor.apply_chat_template``;
``openai``: PNG data URLs, for any server with the chat completions protocol."""

ChatMessage = dict[str, Any]

PNG_PREFIX = "data:image/png;base64,"


def image_url(image: NDArray[np.uint8]) -> str:
    """Encode an image as a lossless data URL.

    Args:
        image: RGB, uint8 (h, w, 3).

    Returns:
        ``data:image/png;base64,...``.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return PNG_PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def plain_text(text: str) -> str:
    """Break up spelled-out special tokens and replace halves of surrogate pairs.

    Error messages and transcripts quote the policy's text. A tokenizer would take an image
    placeholder spelled out there for one without an image, and an end of turn for the end.

    Args:
        text: of a message.

    Returns:
        The text, encodable, with a space inside ``<|``.
    """
    return text.replace("<|", "< |").encode("utf-8", "replace").decode("utf-8")


def _part(part: str | NDArray[np.uint8], format: ChatFormat) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": plain_text(part)}
    if format == "openai":
        return {"type": "image_url", "image_url": {"url": image_url(part)}}
    return {"type": "image", "image": Image.fromarray(part)}


def to_chat(messages: Sequence[Message], format: ChatFormat = "processor") -> list[ChatMessage]:
    """Turn an episode's messages into chat messages, text and images in the order of ``parts``.

    Args:
        messages: the conversation in order.
        format: the shape of the image parts, see ``ChatFormat``.

    Returns:
        One ``{"role": ..., "content": [parts]}`` for each message, its texts cleaned by
        ``plain_text``.

    Raises:
        ConfigError: for an unknown format.
    """
    if format not in ("processor", "openai"):
        raise ConfigError(f"format: expected processor or openai, got {format!r}")
    return [
        {
            "role": message.role,
            "content": [_part(part, format) for part in message.parts],
        }
        for message in messages
    ]


class ChatSpace(gym.Space[list[ChatMessage]]):
    """All conversations in one chat format.

    Args:
        format: the shape of the image parts, see ``ChatFormat``.
        seed: seed of ``sample``.
    """

    def __init__(
        self, format: ChatFormat = "processor", seed: int | np.random.Generator | None = None
    ) -> None:
        """Check the format."""
        if format not in ("processor", "openai"):
            raise ConfigError(f"format: expected processor or openai, got {format!r}")
        super().__init__(shape=None, dtype=None, seed=seed)
        self.format: ChatFormat = format

    @property
    def is_np_flattenable(self) -> bool:
        """Conversations have no fixed length."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> list[ChatMessage]:
        """Draw a short conversation: one user message with a small image of noise.

        Args:
            mask: must be None.
            probability: must be None.

        Returns:
            A member of the space.

        Raises:
            ValueError: when a mask or a probability is given.
        """
        if mask is not None or probability is not None:
            raise ValueError("ChatSpace.sample: expected no mask and no probability")
        noise = self.np_random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return to_chat([Message("user", "noise", (noise,))], self.format)

    def contains(self, x: Any) -> bool:
        """Tell whether ``x`` is a conversation of this format that begins with the user."""
        if not isinstance(x, list) or not x or not all(self._is_message(m) for m in x):
            return False
        return bool(x[0]["role"] == "user")

    def _is_message(self, message: Any) -> bool:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            return False
        parts = message["content"]
        if message["role"] not in ("user", "assistant") or not isinstance(parts, list):
            return False
        return all(isinstance(p, dict) and self._is_part(p) for p in parts)

    def _is_part(self, part: dict[str, Any]) -> bool:
        match part:
            case {"type": "text", "text": str(), **rest}:
                return not rest
            case {"type": "image", "image": Image.Image(), **rest}:
                return not rest and self.format == "processor"
            case {"type": "image_url", "image_url": {"url": str(url)}, **rest}:
                return not rest and self.format == "openai" and url.startswith(PNG_PREFIX)
            case _:
                return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatSpace) and other.format == self.format

    def __repr__(self) -> str:
        return f"ChatSpace({self.format!r})"


class ChatObservation(gym.ObservationWrapper[Any, str, Any], gym.utils.RecordConstructorArgs):
    """Observe the whole conversation so far as chat messages.

    The images are those of the episode itself, unpadded; the wrapped observation is not used.

    Args:
        env: a ``DIPCrowdEnv``, wrapped or not.
        format: the shape of the image parts, see ``ChatFormat``.
    """

    def __init__(self, env: gym.Env[Any, str], format: ChatFormat = "processor") -> None:
        """Set conversations as the observation space."""
        gym.utils.RecordConstructorArgs.__init__(self, format=format)
        gym.ObservationWrapper.__init__(self, env)
        self.format: ChatFormat = format
        self.observation_space = ChatSpace(format)

    def observation(self, observation: Any) -> list[ChatMessage]:
        """Return the conversation so far; its last message is the policy's once it has ended.

        Args:
            observation: what the environment returned, unused.

        Returns:
            Chat messages, first message first.
        """
        return to_chat(self.get_wrapper_attr("episode").transcript, self.format)
