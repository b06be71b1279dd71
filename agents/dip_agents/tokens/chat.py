"""Messages to tokens: the one place where text becomes token ids."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor

from dip_agents.tokens.buffer import EncodedImage, PlaceholderError
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.chat import plain_text
from dip_wrappers.thoughts import open_think, own_part

_DUMMY = "dummy reply"
_TAGS = ("<think>", "</think>", "<look>", "</look>", "<answer>", "</answer>")


def content_key(image: NDArray[np.uint8]) -> bytes:
    """Return a hash of the pixels and the size of an image.

    Args:
        image: uint8 (h, w, 3).
    """
    height, width = image.shape[:2]
    content = image.tobytes() + f"{width}x{height}".encode()
    return hashlib.blake2b(content, digest_size=16).digest()


def check_processor(processor: Any) -> None:
    """Check that a processor has the parts that chats are made with.

    Args:
        processor: of transformers.

    Raises:
        ConfigError: for one without; names the part.
    """
    kind = type(processor).__name__
    for name in ("tokenizer", "image_processor", "apply_chat_template"):
        if getattr(processor, name, None) is None:
            raise ConfigError(f"processor {kind}: expected a {name}")
    if not (getattr(processor, "chat_template", None) or processor.tokenizer.chat_template):
        raise ConfigError(
            f"chat template: expected one, got none with {kind}; take chat_template.jinja from the "
            "base model"
        )


def render(processor: Any, chat: Sequence[dict[str, Any]]) -> str:
    """Return a conversation and the generation prompt as the template writes them.

    Args:
        processor: of transformers.
        chat: messages with parts of type image and text.

    Raises:
        ConfigError: for a processor without a template, or one that does not take the conversation.
    """
    try:
        return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except (ValueError, TypeError, TemplateError) as error:
        raise ConfigError(
            "chat template: expected one that takes a conversation of user and assistant with "
            f"parts of type image and text, got: {error}"
        ) from error


def generation_prompt(processor: Any) -> str:
    """Return what the template writes behind the text of a user's message, before a turn.

    Args:
        processor: of transformers.

    Raises:
        ConfigError: for a template that does not work.
    """
    text = render(processor, [{"role": "user", "content": [{"type": "text", "text": _DUMMY}]}])
    return text.rpartition(_DUMMY)[2]


class ChatTokens:
    """Turns messages into ids and images with a processor's own template and image processor.

    Works with processors of the Qwen-VL families (image and video placeholders, grid of patches).
    A later message is rendered after a dummy conversation and cut behind the end-of-turn token,
    so what came before is never rendered again (source: ours, after TRL's tool suffix).

    A think that the template opens in the generation prompt belongs to the turn: ``text`` puts its
    tag before what was sampled and ``policy_ids`` leaves it out, so that it is read but not
    learned.

    Args:
        processor: a transformers processor with ``tokenizer``, ``image_processor`` and template.

    Raises:
        ConfigError: for a processor without a template that works, or a tokenizer in which a tag of
            the grammar is a special token, which no policy may sample.
    """

    def __init__(self, processor: Any) -> None:
        """Read the special tokens once."""
        check_processor(processor)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token = processor.image_token
        self.image_token_id = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        self.eos_token = self.tokenizer.eos_token
        self.eos_token_id = int(self.tokenizer.eos_token_id)
        self.merge = int(processor.image_processor.merge_size)
        self.patch = int(processor.image_processor.patch_size)
        self.opened = open_think(generation_prompt(processor))
        """Tag of the think that the generation prompt leaves open, or an empty text."""
        self._check_tags(map(str, self.tokenizer.convert_ids_to_tokens(sorted(self.special_ids))))

    def _check_tags(self, special: Iterable[str]) -> None:
        """Raise ConfigError where a tag of the grammar is among the special tokens."""
        for tag in sorted(set(_TAGS).intersection(special)):
            raise ConfigError(f"tokenizer: expected {tag} as text, got it as special token")

    @property
    def special_ids(self) -> set[int]:
        """Ids of the special tokens, the end of turn among them."""
        return set(self.tokenizer.all_special_ids)

    @property
    def banned_ids(self) -> list[int]:
        """Ids a policy must never sample: every special token but the end of turn."""
        return sorted(self.special_ids - {self.eos_token_id})

    def opening(self, messages: Sequence[Message]) -> tuple[list[int], list[EncodedImage]]:
        """Return ids and images of the first messages, ready for the policy's first token."""
        return self._encode(self._render([self._content(m) for m in messages]), messages)

    def reply(self, message: Message) -> tuple[list[int], list[EncodedImage]]:
        """Return ids and images of a later user message, from behind the last end of turn.

        Args:
            message: of the environment.

        Returns:
            Ids that continue a buffer whose last token is the end of turn, and the images.

        Raises:
            PlaceholderError: when the chat template lacks the end-of-turn token.
        """
        opening = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        dummy = {"role": "assistant", "content": [{"type": "text", "text": _DUMMY}]}
        text = self._render([opening, dummy, self._content(message)])
        head, found, tail = text.partition(_DUMMY + self.eos_token)
        if not found:
            raise PlaceholderError(
                f"chat template: expected {self.eos_token!r} after a reply, got {head[-40:]!r}"
            )
        return self._encode(tail, [message])

    def policy_ids(self, text: str) -> list[int]:
        """Return the ids of a finished policy turn, the end of turn included (demonstrations)."""
        written = own_part(self._plain(text), self.opened)
        return [*self.tokenizer.encode(written, add_special_tokens=False), self.eos_token_id]

    def text(self, ids: Sequence[int]) -> str:
        """Return the action of sampled ids, without the end of turn."""
        kept = [i for i in ids if i != self.eos_token_id]
        return self.opened + str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def as_read(self, text: str) -> str:
        """Return a turn's text as ``text(policy_ids(text))`` gives it, if the tokens represent it.

        Args:
            text: an action.
        """
        return self.opened + own_part(self._plain(text), self.opened)

    def encode_image(self, image: NDArray[np.uint8]) -> EncodedImage:
        """Return the tokens, size and content hash of one image.

        Args:
            image: uint8 (h, w, 3) whose sides are multiples of patch * merge.

        Returns:
            The encoded image.

        Raises:
            PlaceholderError: when the processor would resize (sides are no such multiples).
        """
        height, width = image.shape[:2]
        multiple = self.patch * self.merge
        if height % multiple or width % multiple:
            raise PlaceholderError(
                f"size_multiple: expected image sides that are multiples of {multiple}, "
                f"got {width}x{height}"
            )
        grid = (1, height // self.patch, width // self.patch)
        tokens = math.prod(grid) // self.merge**2
        return EncodedImage(grid, tokens, content_key(image), image)

    def patches(self, images: Sequence[EncodedImage]) -> Tensor:
        """Return images as the vision tower takes them.

        Args:
            images: at least one.

        Returns:
            Flattened patches, float32 (patches of all images, channels*temporal*patch*patch).

        Raises:
            PlaceholderError: when the processor makes another number of patches.
        """
        out = self.processor.image_processor(
            images=[torch.from_numpy(image.pixels.copy()).permute(2, 0, 1) for image in images],
            do_resize=False,
            return_tensors="pt",
        )
        grids = [tuple(grid) for grid in out["image_grid_thw"].tolist()]
        for image, grid in zip(images, grids, strict=True):
            if grid != image.grid:
                raise PlaceholderError(
                    f"image grid: expected {image.grid} patches of an image of "
                    f"{image.pixels.shape[1]}x{image.pixels.shape[0]} pixels, got {grid}"
                )
        return cast(Tensor, out["pixel_values"]).to(torch.float32)

    def _plain(self, text: str) -> str:
        return plain_text(text)

    def _content(self, message: Message) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": self._plain(part)}
            if isinstance(part, str)
            else {"type": "image"}
            for part in message.parts
        ]
        return {"role": message.role, "content": parts}

    def _render(self, chat: list[dict[str, Any]]) -> str:
        return render(self.processor, chat)

    def _encode(
        self, text: str, messages: Sequence[Message]
    ) -> tuple[list[int], list[EncodedImage]]:
        images = [self.encode_image(image) for m in messages for image in m.images]
        pieces = text.split(self.image_token)
        if len(pieces) != len(images) + 1:
            raise PlaceholderError(
                f"chat template: expected {len(images)} image placeholders, got {len(pieces) - 1}"
            )
        expanded = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            expanded += self.image_token * image.tokens + piece
        return list(self.tokenizer.encode(expanded, add_special_tokens=False)), images
