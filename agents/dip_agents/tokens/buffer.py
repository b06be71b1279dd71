"""The append-only token record of one episode; independent of tokenizer and model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dip_env.errors import DipError


class TokenBudgetError(DipError, ValueError):
    """Tokens do not fit the token budget; nothing was appended or generated."""


class PlaceholderError(DipError, RuntimeError):
    """Image placeholders and image features disagree; training on them would be silently wrong."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """One image in the sequence of tokens; what the model takes of it is made where it is needed.

    Args:
        grid: (t, h, w) in patches.
        tokens: placeholders this image fills in the sequence.
        key: content hash; equal keys mean equal pixels, so an image is encoded once.
        pixels: uint8 (h, w, 3); an eighth of the bytes of its patches in float32.
    """

    grid: tuple[int, int, int]
    tokens: int
    key: bytes
    pixels: NDArray[np.uint8]


@dataclass(eq=False)
class TokenBuffer:
    """Token ids of one episode and who wrote each; text is never tokenised twice.

    Args:
        image_token_id: the placeholder id that image features replace.
        token_budget: longest allowed length, or None.
    """

    image_token_id: int
    token_budget: int | None = None
    ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def append_env(self, ids: Sequence[int], images: Sequence[EncodedImage] = ()) -> None:
        """Append tokens of the environment (loss mask 0).

        Args:
            ids: token ids, with one placeholder per image feature.
            images: the images in the order of their placeholders.

        Raises:
            PlaceholderError: when placeholders and features differ in number.
            TokenBudgetError: when it does not fit; the buffer is left as it was.
        """
        expected = sum(image.tokens for image in images)
        got = sum(1 for i in ids if i == self.image_token_id)
        if got != expected:
            raise PlaceholderError(
                f"ids: expected {expected} image placeholders for {len(images)} images, got {got}"
            )
        self._check_room(len(ids))
        self.ids.extend(ids)
        self.loss_mask.extend([0] * len(ids))
        self.logprobs.extend([0.0] * len(ids))
        self.images.extend(images)

    def append_policy(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append tokens that the policy sampled (loss mask 1).

        Args:
            ids: sampled token ids, the end-of-turn token included when it was sampled.
            logprobs: behaviour logprobs of those tokens, or None when the sampler gives none;
                they are kept as NaN then.

        Raises:
            PlaceholderError: when the policy sampled an image placeholder.
            ValueError: when ids and logprobs differ in number.
        """
        if logprobs is None:
            logprobs = [math.nan] * len(ids)
        if len(ids) != len(logprobs):
            raise ValueError(
                f"logprobs: expected one for each of {len(ids)} ids, got {len(logprobs)}"
            )
        if self.image_token_id in ids:
            raise PlaceholderError(
                "ids: expected no image placeholder from the policy, got one; the sampler must "
                "ban it"
            )
        self.ids.extend(ids)
        self.loss_mask.extend([1] * len(ids))
        self.logprobs.extend(float(value) for value in logprobs)

    def room(self) -> int | None:
        """Return how many tokens still fit, or None without a budget."""
        return None if self.token_budget is None else self.token_budget - len(self.ids)

    def copy(self) -> TokenBuffer:
        """Return a buffer with its own lists; the images are shared."""
        return TokenBuffer(
            self.image_token_id,
            self.token_budget,
            list(self.ids),
            list(self.loss_mask),
            list(self.logprobs),
            list(self.images),
        )

    def _check_room(self, extra: int) -> None:
        if self.token_budget is not None and len(self.ids) + extra > self.token_budget:
            raise TokenBudgetError(
                f"token_budget: expected at least {len(self.ids)} + {extra} tokens, "
                f"got {self.token_budget}"
            )
