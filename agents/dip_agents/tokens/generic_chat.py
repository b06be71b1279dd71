"""Messages to tokens for any transformers processor whose images all have as many tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dip_agents.tokens.buffer import EncodedImage, PlaceholderError
from dip_agents.tokens.chat import ChatTokens, check_processor, content_key, generation_prompt
from dip_agents.tokens.image_check import (
    changed_settings,
    check_whole_image,
    suspects,
    whole_image_settings,
)
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.thoughts import open_think

_REPLY = "dummy reply"
_IGNORED = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "pixel_values"}
"""Outputs of a processor, beside pixels, that need no check."""
_CONSTANT = {"pixel_attention_mask": 1, "num_crops": 0, "num_patches": 1, "rows": 0, "cols": 0}
"""Outputs it may return with these values only, which mean: the whole image, once."""


class GenericChat(ChatTokens):
    """``ChatTokens`` for any family of models, from what the processor itself returns.

    The processor itself writes the placeholders. The end of turn is the special token that the
    chat template writes behind a reply; where it writes none, the tokenizer's end of sequence is
    put there, with a warning. An image that the processor would cut into tiles or crop is given to
    the model whole instead (see ``whole_image_settings``), also with a warning.

    Args:
        processor: with ``tokenizer``, ``image_processor`` and a chat template.
        image_token_id: the placeholder id of the model's config.

    Raises:
        ConfigError: for a processor that does not work in this way; says what was expected.
    """

    def __init__(self, processor: Any, image_token_id: int) -> None:
        """Read the special tokens once and how the template ends a turn."""
        check_processor(processor)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = image_token_id
        self.image_token = str(self.tokenizer.convert_ids_to_tokens(image_token_id))
        added = self.tokenizer.added_tokens_decoder
        ids = {i for i, token in added.items() if token.special} | {image_token_id}
        self._special_ids = ids | set(self.tokenizer.all_special_ids)
        tokens = map(str, self.tokenizer.convert_ids_to_tokens(sorted(self._special_ids)))
        self._special = sorted(tokens, key=lambda token: (-len(token), token))
        self._check_tags(self._special)
        self.settings = whole_image_settings(processor.image_processor)
        self._log = logging.getLogger(__name__)
        changed = changed_settings(processor.image_processor, self.settings)
        if changed:
            self._log.warning("each image is given to the model whole, in one picture: %s", changed)
        self.eos_token, self._written = self._end_of_turn()
        self.opened = open_think(generation_prompt(processor))
        self.eos_token_id = int(self.tokenizer.convert_tokens_to_ids(self.eos_token))
        self.pixel_axes = 4
        """Axes of the pixel array that the model takes: (N, 3, H, W) or (1, N, 3, H, W)."""
        self._side: tuple[int, ...] | None = None
        self._tokens: dict[tuple[int, int], int] = {}

    @property
    def special_ids(self) -> set[int]:
        """Ids of the special tokens, of the end of turn and of the image placeholder."""
        return self._special_ids

    def opening(self, messages: Sequence[Message]) -> tuple[list[int], list[EncodedImage]]:
        """Return ids and images of the first messages, ready for the policy's first token."""
        text = self._render([self._content(message) for message in messages])
        first = self.tokenizer.bos_token
        # A template without a first token leaves it to the tokenizer, as transformers does.
        begin = first is not None and not text.startswith(first)
        return self._encode(text, messages, begin=begin)

    def reply(self, message: Message) -> tuple[list[int], list[EncodedImage]]:
        """Return ids and images of a later user message, from behind the last end of turn.

        Args:
            message: of the environment.
        """
        tail = self._after_reply(self._content(message))
        if self._written:
            tail = tail.lstrip()[len(self.eos_token) :]
        return self._encode(tail, [message])

    def encode_image(self, image: NDArray[np.uint8]) -> EncodedImage:
        """Return one image as the model takes it.

        Args:
            image: uint8 (h, w, 3).

        Raises:
            ConfigError: when the processor would lose a part of it.
        """
        return self.opening([Message("user", "", (image,))])[1][0]

    def _encode(
        self, text: str, messages: Sequence[Message], begin: bool = False
    ) -> tuple[list[int], list[EncodedImage]]:
        images = [image for message in messages for image in message.images]
        if not images:
            return list(self.tokenizer.encode(text, add_special_tokens=begin)), []
        for image in images:
            self._understand((image.shape[0], image.shape[1]))
        ids, _ = self._process(text, images, begin)
        encoded = [self._encoded(image) for image in images]
        expected = sum(image.tokens for image in encoded)
        got = ids.count(self.image_token_id)
        if got != expected:
            raise PlaceholderError(
                f"processor: expected {expected} placeholders for {len(images)} images, got {got}"
            )
        return ids, encoded

    def patches(self, images: Sequence[EncodedImage]) -> Tensor:
        """Return images as the model takes them, float32 (images, 3, H, W).

        Args:
            images: at least one.
        """
        # One by one, as templates and processors may bound the images of a message.
        text = self._render([{"role": "user", "content": [{"type": "image"}]}])
        return torch.cat([self._process(text, [image.pixels])[1] for image in images])

    def _encoded(self, image: NDArray[np.uint8]) -> EncodedImage:
        height, width = image.shape[:2]
        tokens = self._tokens[height, width]
        side = math.isqrt(tokens)
        grid = (1, side, side) if side * side == tokens else (1, 1, tokens)
        return EncodedImage(grid, tokens, content_key(image), image)

    def _understand(self, size: tuple[int, int]) -> None:
        """Count the placeholders of an image of some size, and check that it stays whole."""
        if size in self._tokens:
            return
        text = self._render([{"role": "user", "content": [{"type": "image"}]}])
        suspected = suspects(self.processor.image_processor, self.settings)
        check_whole_image(lambda image: self._process(text, [image])[1][0].numpy(), size, suspected)
        ids, _ = self._process(text, [np.full((*size, 3), 127, dtype=np.uint8)])
        tokens = ids.count(self.image_token_id)
        if not tokens:
            raise ConfigError(
                f"processor: expected it to write {self.image_token!r} (id {self.image_token_id} "
                "of the model's config) for an image, got none"
            )
        self._tokens[size] = tokens

    def _process(
        self, text: str, images: Sequence[NDArray[np.uint8]], begin: bool = False
    ) -> tuple[list[int], Tensor]:
        """Return the ids of a text and its images' pictures, float32 (images, 3, H, W)."""
        try:
            out = self.processor(
                text=[text],
                images=[Image.fromarray(image) for image in images],
                add_special_tokens=begin,
                return_tensors="pt",
                **self.settings,
            )
            pixels = out["pixel_values"]
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise ConfigError(
                f"processor {type(self.processor).__name__}: expected ids and pixel_values for a "
                f"text with {len(images)} images, got {type(error).__name__}: {str(error)[:300]}"
            ) from error
        for name in set(out) - _IGNORED:
            value = torch.as_tensor(out[name])
            if name not in _CONSTANT or bool((value != _CONSTANT[name]).any()):
                raise ConfigError(
                    f"processor {type(self.processor).__name__}: expected pixel_values alone, "
                    f"got {name} too; a model that reads it needs an engine of its own"
                )
        pictures = pixels.reshape(-1, *pixels.shape[-3:]) if pixels.ndim in (4, 5) else pixels[:0]
        if len(pictures) != len(images):
            raise ConfigError(
                f"processor {type(self.processor).__name__}: expected one picture (3, H, W) per "
                f"image, got pixel_values {tuple(pixels.shape)} for {len(images)}; settings that "
                f"may cut it: {suspects(self.processor.image_processor, self.settings)}"
            )
        if self._side is None:
            self._side, self.pixel_axes = tuple(pictures.shape[1:]), int(pixels.ndim)
        if tuple(pictures.shape[1:]) != self._side:
            raise ConfigError(
                f"image processor: expected every picture as {self._side}, got "
                f"{tuple(pictures.shape[1:])}; give it a fixed size (height and width)"
            )
        return out["input_ids"][0].tolist(), pictures.to(torch.float32)

    def _after_reply(self, content: dict[str, Any]) -> str:
        """Return what the template writes behind a reply when a message follows it."""
        opening = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        dummy = {"role": "assistant", "content": [{"type": "text", "text": _REPLY}]}
        text = self._render([opening, dummy, content])
        head, found, tail = text.partition(_REPLY)
        if not found:
            raise ConfigError(f"chat template: expected replies in it, got {head[-60:]!r}")
        return tail

    def _end_of_turn(self) -> tuple[str, bool]:
        """Return the token that ends a turn, and whether the template writes it."""
        content = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        tail = self._after_reply(content)
        for token in self._special:  # the longest first
            if tail.lstrip().startswith(token):
                return token, True
        if self.tokenizer.eos_token is None:
            raise ConfigError(
                f"chat template: expected a special token behind a reply, got {tail[:40]!r}"
            )
        self._log.warning(
            "the chat template ends replies with %r; %s is put before it as end of turn",
            tail[:20],
            self.tokenizer.eos_token,
        )
        return str(self.tokenizer.eos_token), False

    def _plain(self, text: str) -> str:
        """Make quoted text harmless: no spelled-out special token, no half of a surrogate pair."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "")
        return text.encode("utf-8", "replace").decode("utf-8")
