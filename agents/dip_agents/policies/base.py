"""Who acts: the one protocol every player follows, and the bridge from text to tokens.

Knows no model and no tokenizer. The environment reads ``Completion.text`` only; the token fields
are for trainers and stay empty for policies that have no tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dip_env.episode import Message, Observation
from dip_env.errors import ConfigError
from dip_env.rendering import transcript_text


@dataclass(frozen=True)
class Completion:
    """What a policy said in one turn.

    Args:
        text: the action, as the environment reads it.
        token_ids: the sampled tokens in order, empty when the policy has none.
        logprobs: log-probability of each token under the behaviour policy, as long as
            ``token_ids`` or empty.
        truncated: True when the token limit cut the text.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    truncated: bool = False


@runtime_checkable
class Policy(Protocol):
    """Anything that answers a batch of observations."""

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Say one action for each observation.

        Args:
            observations: what each unfinished episode shows now; all state a policy may use.
            seeds: one seed for each observation, other for each episode and turn; the same
                observation and seed give the same completion.

        Returns:
            As many completions as observations, in their order.
        """
        ...


class CallablePolicy:
    """Plug in any ``str -> str``: it gets the transcript as text and returns the action.

    Args:
        fn: called once for each observation, in order.
    """

    def __init__(self, fn: Callable[[str], str]) -> None:
        """Keep the callable."""
        self.fn = fn

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Call ``fn`` on each transcript.

        Args:
            observations: what each unfinished episode shows now.
            seeds: unused; the callable owns its randomness.

        Returns:
            One completion for each observation.

        Raises:
            ConfigError: when the callable returns something other than a str.
        """
        completions = []
        for observation in observations:
            text = self.fn(transcript_text(observation.messages))
            if not isinstance(text, str):
                raise ConfigError(
                    f"fn: expected a function that returns str, got {type(text).__name__}"
                )
            completions.append(Completion(text))
        return completions


class RememberingPolicy:
    """Ask a policy only once about the same observation and seed, as its contract allows.

    For one policy that is played in several ways on the same scenes: it then says the same wherever
    it has seen the same, and saying it costs once.

    Args:
        policy: who is asked.
    """

    def __init__(self, policy: Policy) -> None:
        """Begin with no memory."""
        self.policy = policy
        self._said: dict[tuple[object, ...], Completion] = {}

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Hand on what is new, and repeat what was said to the rest.

        Args:
            observations: what each unfinished episode shows now.
            seeds: one seed for each observation.

        Returns:
            One completion for each observation.

        Raises:
            ConfigError: when the policy returns more or fewer completions than observations.
        """
        keys = [_situation(o, seed) for o, seed in zip(observations, seeds, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._said]
        if new:
            said = self.policy.act([observations[i] for i in new], [seeds[i] for i in new])
            if len(said) != len(new):
                raise ConfigError(f"policy: expected {len(new)} completions, got {len(said)}")
            self._said |= {keys[i]: completion for i, completion in zip(new, said, strict=True)}
        return [self._said[key] for key in keys]


def conversation_key(messages: Sequence[Message]) -> bytes:
    """Return a hash of a conversation, images included."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.role}\0".encode())
        for part in message.parts:
            if isinstance(part, str):
                digest.update(f"{part}\0".encode())
            else:
                digest.update(f"{part.shape}".encode() + part.tobytes())
    return digest.digest()


def _situation(observation: Observation, seed: int) -> tuple[object, ...]:
    """Return all that a policy may depend on, in a form that compares by value."""
    o = observation
    said = conversation_key(o.messages)
    return o.scene_index, o.view, o.turn, o.looks_left, o.turns_left, said, seed
