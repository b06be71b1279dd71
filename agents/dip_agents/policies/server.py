"""Any model behind an OpenAI-compatible server as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dip_agents.engines.chat_client import ChatServer, message_json
from dip_agents.policies.base import Completion
from dip_env.episode import Observation
from dip_env.errors import ConfigError


class ServerPolicy:
    """Sends the conversation with its images and uses the reply as the action.

    For evaluation: it needs no tokenizer and returns no tokens. ``OpenAIEngine`` uses the same
    client, counts tokens and can return those that a trainer needs.

    Args:
        server: address, such as ``http://127.0.0.1:8000/v1``.
        model: name of the model on the server.
        temperature: 0 is greedy.
        max_tokens: token limit of one turn.
        key_variable: environment variable that holds the API key, or None for no key.
        concurrency: most requests at once.
        timeout: seconds one request may take.
        retries: further tries after a busy or failing server.

    Raises:
        ConfigError: for a server, a key variable or a number that cannot work.
    """

    def __init__(
        self,
        server: str,
        model: str,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        *,
        key_variable: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 4,
    ) -> None:
        """Check the settings; nothing is sent yet."""
        for name, value in (("concurrency", concurrency), ("max_tokens", max_tokens)):
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if not temperature >= 0:
            raise ConfigError(f"temperature: expected at least 0, got {temperature}")
        self.model, self.temperature, self.max_tokens = model, temperature, max_tokens
        self.concurrency = concurrency
        self.server = ChatServer(server, key_variable, timeout=timeout, retries=retries)

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Request one turn of each conversation.

        Args:
            observations: conversations whose last message is the environment's.
            seeds: one per observation; sent along unless greedy.

        Returns:
            One completion per observation, in order.

        Raises:
            EngineError: when the server cannot be reached or refuses, or when none of its
                responses can be read. A single such response is a failed turn.
        """
        bodies = [self._body(o, seed) for o, seed in zip(observations, seeds, strict=True)]
        with ThreadPoolExecutor(self.concurrency, "server") as pool:
            turns = list(pool.map(self.server.turn, bodies))
        self.server.check_read()
        return [Completion(t.text, truncated=t.truncated, failed=t.failed) for t in turns]

    def _body(self, observation: Observation, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message_json(m) for m in observation.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        # Servers differ in how many bits they take; 31 are safe.
        return body | ({"seed": seed % 2**31} if self.temperature > 0 else {})
