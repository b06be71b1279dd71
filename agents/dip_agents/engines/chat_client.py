"""Requests to a chat server with the standard library: retries, keys, images."""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dip_agents.engines.base import EngineError
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.chat import plain_text, to_chat

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which another try may work."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries, whatever the server asks for."""


class ChatServer:
    """Posts chat completions and tries again while the server is busy.

    Args:
        server: address with or without a path; ``/v1`` is added to one without.
        key_variable: environment variable with the API key, or None.
        timeout: seconds one request may take.
        retries: further tries.
        backoff: seconds of the first pause; each next one is twice as long.

    Raises:
        ConfigError: for an address that is not one, an unset variable or a number out of range.
    """

    def __init__(
        self,
        server: str,
        key_variable: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 0.5,
    ) -> None:
        """Read the key; nothing is sent yet."""
        parts = urllib.parse.urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                f"server: expected an address such as http://127.0.0.1:8000/v1, got {server!r}"
            )
        if not timeout > 0:
            raise ConfigError(f"timeout: expected above 0, got {timeout}")
        for name, value in (("retries", retries), ("backoff", backoff)):
            if value < 0:
                raise ConfigError(f"{name}: expected at least 0, got {value}")
        base = server.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self.address = base + "/chat/completions"
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self._key = None if key_variable is None else os.environ.get(key_variable)
        if key_variable is not None and not self._key:
            raise ConfigError(f"key_variable: expected a key in ${key_variable}, found none")
        # A redirect would carry the key to another host.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the JSON object of its answer.

        Args:
            body: of the request.

        Returns:
            The JSON object of its response.

        Raises:
            EngineError: when it refuses, answers no JSON object, or stays busy.
        """
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            got, wanted = self._try(data)
            if not isinstance(got, str):
                return got
            if attempt < self.retries:
                # With jitter, so that many requests do not come back at once.
                pause = self.backoff * 2**attempt * (1.0 + random.random())
                time.sleep(min(max(pause, wanted), LONGEST_PAUSE))
        raise EngineError(
            f"{self.address}: expected an answer within {self.retries + 1} tries, "
            f"got at last: {got}"
        )

    def _try(self, data: bytes) -> tuple[dict[str, Any] | str, float]:
        """Return an answer, or the reason of a failure and the seconds the server asks to wait."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.address, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._parsed(response.read()), 0.0
        except urllib.error.HTTPError as error:
            status = f"status {error.code}: {self._quoted(_read(error))}"
            if error.code not in BUSY:
                raise EngineError(f"{self.address}: expected status 200, got {status}") from None
            return status, _seconds(error.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            # Refused, reset and cut connections, names that do not resolve, time-outs.
            return f"{type(error).__name__}: {error}", 0.0

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EngineError(
                f"{self.address}: expected a JSON object, got {self._quoted(raw)}"
            ) from None
        return answer

    def _quoted(self, raw: bytes) -> str:
        """Return the start of a response without the key, which some servers repeat."""
        text = raw.decode("utf-8", "replace")
        if self._key:
            text = text.replace(self._key, "***")
        return repr(text[:200])


def message_json(message: Message) -> dict[str, Any]:
    """Return a message as servers take it: images as PNG data addresses, the policy's as text."""
    if message.role == "assistant":
        return {"role": "assistant", "content": plain_text(message.text)}
    return to_chat([message], "openai")[0]


def first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a response.

    Raises:
        EngineError: when a field is missing or has another type; names it.
    """
    try:
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise EngineError(
            "server: expected choices[0] with message.content and finish_reason, "
            f"got {str(answer)[:200]} ({type(error).__name__}: {error})"
        ) from error
    if not (text is None or isinstance(text, str)) or reason not in ("stop", "length"):
        raise EngineError(
            "server: expected text that ended by stop or length, "
            f"got {str(text)[:100]!r} and {reason!r}"
        )
    return choice


def _read(error: urllib.error.HTTPError) -> bytes:
    """Return what came with an error status, as far as it came."""
    try:
        return error.read()
    except (OSError, http.client.HTTPException):
        return b""


def _seconds(value: str | None) -> float:
    """Return the seconds of a Retry-After header, 0 for a date or none."""
    return float(value) if value is not None and value.isdigit() else 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Turns a redirect into an error."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""
