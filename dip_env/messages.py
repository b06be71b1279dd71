"""What a policy and an episode exchange: messages, observations and the turns that come back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.actions import Segment
from dip_env.result import EpisodeResult
from dip_env.views import Crop, View


@dataclass(frozen=True, eq=False)
class Message:
    """One message of the conversation; ``parts`` has text and images in the order they are read.

    Args:
        role: the author: the environment is the user, the policy the assistant.
        text: the content without the images.
        images: RGB uint8 arrays (h, w, 3), read-only.
        captioned: image k follows line k of the text, so that a causal model knows where a crop
            lies before it sees it; otherwise all images come before the text.

    Raises:
        ValueError: when there are fewer lines than captioned images.
    """

    role: Literal["user", "assistant"]
    text: str
    images: tuple[NDArray[np.uint8], ...] = ()
    captioned: bool = False

    def __post_init__(self) -> None:
        """Check that each captioned image has its line."""
        lines = self.text.count("\n") + 1
        if self.captioned and lines < len(self.images):
            raise ValueError(
                f"message: expected a line for each of {len(self.images)} images, got {lines}"
            )

    @property
    def parts(self) -> tuple[str | NDArray[np.uint8], ...]:
        """Text and images in the order they are read; the texts together are ``text``."""
        if not self.captioned:
            return (*self.images, self.text)
        first, *others = self.text.split("\n", len(self.images))
        lines = [first, *("\n" + line for line in others)]
        pairs = zip_longest(lines, self.images)
        return tuple(part for pair in pairs for part in pair if part is not None)


@dataclass(frozen=True, eq=False)
class Observation:
    """All that a policy may know before its next action; no ground truth.

    Args:
        messages: the conversation so far, the overview in the first message.
        view: the frames of the scene.
        crops: what all looks so far have shown, in order.
        turn: actions taken so far.
        looks_left: looks that may still be taken.
        turns_left: actions that may still be given.
        scene_index: index of the scene in its source, where it has one.
    """

    messages: tuple[Message, ...]
    view: View
    crops: tuple[Crop, ...]
    turn: int
    looks_left: int
    turns_left: int
    scene_index: int | None


@dataclass(frozen=True, eq=False)
class Turn:
    """One action's effect on the episode.

    Args:
        message: the environment's reply, None when the episode has ended.
        crops: what this action's looks show, in the order of their regions.
        reward: 0 until the episode ends, then the weighted sum of the terms.
        terminated: the policy has answered.
        truncated: the turns ran out without an answer.
        segments: the parsed action; None for one that was malformed or refused.
        parse_error: the reason of that, else None.
        waiting: of a group's member: whether it has ended and its group has not; None outside a
            group.
        result: what the episode earned; None before the end and in episodes that are not scored.
    """

    message: Message | None
    crops: tuple[Crop, ...]
    reward: float
    terminated: bool
    truncated: bool
    segments: tuple[Segment, ...] | None = None
    parse_error: str | None = None
    waiting: bool | None = None
    result: EpisodeResult | None = None
