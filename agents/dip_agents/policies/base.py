"""The policy protocol, and completions as the bridge from text to tokens.

Independent of models and tokenizers. The environment reads ``Completion.text`` only; the token
fields are for trainers and stay empty for policies that have no tokens.
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
    """What a policy generated in one turn.

    Args:
        text: the action, as the environment reads it.
        token_ids: the sampled tokens in order, empty when the policy has none.
        logprobs: log-probability of each token under the behaviour policy, as long as
            ``token_ids`` or empty.
        truncated: True when the text did not end by itself, as at a token limit.
        failed: why a server's response could not be read, empty for all others; the text is empty.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    truncated: bool = False
    failed: str = ""


@runtime_checkable
class Policy(Protocol):
    """Anything that answers a batch of observations."""

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Generate one action for each observation.

        Args:
            observations: what each unfinished episode shows now; all state a policy may use.
            seeds: one seed for each observation, different for each episode and turn; the same
                observation and seed give the same completion.

        Returns:
            As many completions as observations, in their order.
        """
        ...


class CallablePolicy:
    """A function ``str -> str`` as a policy: transcript in, action out.

    Args:
        fn: called once for each observation, in order.
    """

    def __init__(self, fn: Callable[[str], str]) -> None:
        """Store the function."""
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
    """Caches completions by observation and seed, as the contract of a policy allows.

    For one policy that plays the same scenes under several conditions: equal observations then get
    equal completions, which are generated once. Unlike the token buffers that ``VLMPolicy`` keeps
    to continue a conversation, the completions are never evicted.

    Args:
        policy: that generates what is not in the cache.
    """

    def __init__(self, policy: Policy) -> None:
        """Start with an empty cache."""
        self.policy = policy
        self._completions: dict[tuple[object, ...], Completion] = {}

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Generate completions for new observations and return cached ones for the rest.

        Args:
            observations: what each unfinished episode shows now.
            seeds: one seed for each observation.

        Returns:
            One completion for each observation.

        Raises:
            ConfigError: when the policy returns more or fewer completions than observations.
        """
        keys = [_cache_key(o, seed) for o, seed in zip(observations, seeds, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._completions]
        if new:
            fresh = self.policy.act([observations[i] for i in new], [seeds[i] for i in new])
            if len(fresh) != len(new):
                raise ConfigError(f"policy: expected {len(new)} completions, got {len(fresh)}")
            self._completions |= {
                keys[i]: completion for i, completion in zip(new, fresh, strict=True)
            }
        return [self._completions[key] for key in keys]


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


def _cache_key(observation: Observation, seed: int) -> tuple[object, ...]:
    """Return all that a policy may depend on, in a form that compares by value."""
    o = observation
    conversation = conversation_key(o.messages)
    return o.scene_index, o.view, o.turn, o.looks_left, o.turns_left, conversation, seed
