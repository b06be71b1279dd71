"""The interface of engines: prompts go in, turns come out; independent of model and reward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dip_agents.tokens.buffer import EncodedImage
from dip_env.errors import DipError
from dip_env.messages import Message

if TYPE_CHECKING:
    from dip_agents.models.base import VisionLanguageModel
    from dip_agents.tokens.chat import ChatTokens


class EngineError(DipError, RuntimeError):
    """An engine cannot continue, or its tokens or weights would differ from the trainer's."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens that are new to a row and come before the policy's next token.

    Args:
        ids: token ids, with one placeholder per image feature.
        images: in the order of their placeholders.
        messages: the same as text and pixels, for engines that do not take tokens; of a first
            chunk the whole conversation, of a later one the environment's message.
    """

    ids: Sequence[int]
    images: Sequence[EncodedImage]
    messages: Sequence[Message] = ()


@dataclass(frozen=True)
class Sample:
    """One turn of one row.

    Args:
        ids: token ids; the last is the end of turn unless truncated.
        logprobs: behaviour logprobs of these ids at the sampling temperature, or None when the
            engine gives none.
        truncated: True when the turn hit its token limit.
        failed: why a server's response could not be read, empty for all others; such a turn has no
            ids.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    truncated: bool
    failed: str = ""


@dataclass(frozen=True)
class Sampling:
    """How turns are sampled.

    Args:
        temperature: above 0 samples from the whole distribution, 0 decodes greedily.
        max_new_tokens: limit per turn, the end of turn included.
        token_budget: limit per row, its first chunk included.
    """

    temperature: float = 1.0
    max_new_tokens: int = 256
    token_budget: int = 2048


Reply = Callable[[int, Sample], Chunk | None]
"""Row and its turn -> the chunk that follows in that row, or None when it has ended.

Called from one thread, which may be another than the engine's, one call at a time; all calls of a
row come in the order of its turns. A chunk fits the row's token budget with at least one token to
spare.
"""

TurnSeed = Callable[[int, int], int]
"""Row and turn (from 0) -> seed of its sampling; the same on all ranks, whatever else is
generated."""


@dataclass(frozen=True, eq=False)
class RolloutRequest:
    """The arguments of one ``Engine.play``.

    Args:
        prompts: P first chunks.
        repeats: G, rows of each prompt.
        reply: gives what follows a turn.
        sampling: how turns are sampled.
        turn_seed: seed of each turn.
    """

    prompts: Sequence[Chunk]
    repeats: int
    reply: Reply
    sampling: Sampling
    turn_seed: TurnSeed

    @property
    def rows(self) -> int:
        """P * G."""
        return len(self.prompts) * self.repeats

    def openings(self) -> Iterator[tuple[int, Chunk]]:
        """Yield the number of each row and its first chunk."""
        return enumerate(chunk for chunk in self.prompts for _ in range(self.repeats))


_versions = itertools.count(1)


def new_version() -> int:
    """Return a version number that no other weights of this process have had."""
    return next(_versions)


class Engine(Protocol):
    """Generates many rows, each a conversation of turns.

    An engine closes a truncated turn for the model by the chunk that follows: ``Reply`` puts the
    end of turn first.
    """

    chat: ChatTokens
    """Messages to tokens, as this engine's model reads them."""
    exact_logprobs: bool
    """True when the trainer's own weights sample; else the trainer corrects for the mismatch."""

    def play(
        self,
        prompts: Sequence[Chunk],
        repeats: int,
        reply: Reply,
        sampling: Sampling,
        turn_seed: TurnSeed,
    ) -> None:
        """Generate ``repeats`` rows of each prompt to their ends.

        Args:
            prompts: P first chunks.
            repeats: G; row p*G+g continues prompt p.
            reply: gives what follows each turn.
            sampling: how turns are sampled.
            turn_seed: seeds; greedy sampling uses none.

        Raises:
            TokenBudgetError: when a chunk does not fit the token budget.
        """
        ...

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Load the trainer's weights.

        Args:
            vlm: the trainer's model.
            version: differs between different weights, over all runs that use this engine, so that
                an engine may skip a version it has; see ``new_version``.
        """
        ...
