"""Requests to a chat server with the standard library: retries, keys, images, odd replies."""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import reprlib
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dip_agents.engines.base import EngineError
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.chat import plain_text, to_chat
from dip_wrappers.thoughts import whole_action

logger = logging.getLogger(__name__)

ENDED = ("stop", "eos_token", "stop_sequence", "end_turn")
"""Reasons of a turn that ended by itself; servers differ in the word."""
REFUSED = (400, 413, 422)
"""Statuses that refuse one request: others of the same server may be taken."""
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which another try may work."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries, whatever the server asks for."""
LARGEST = 2**26
"""Bytes of a response that are read."""


class ReplyError(EngineError):
    """A server's response to one request cannot be read; others may be."""


class _OtherNameError(Exception):
    """The server wants the token limit under its other name."""


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
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._first_failure = ""
        self._read = False
        self._renames = False
        # A redirect would carry the key to another host.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def turn(self, body: dict[str, Any]) -> ServerTurn:
        """Request one turn; a response that cannot be read is a failed turn.

        Args:
            body: of the request.

        Returns:
            The turn. Callers end with ``check_read``, so that a server of which no response could
            be read is an error and not a row of failed turns.

        Raises:
            EngineError: when the server cannot be reached, wants another key or path, or stays
                busy.
        """
        try:
            turn = read_turn(self.ask(body))
        except ReplyError as error:
            self.warn(f"a response cannot be read, so its turn counts as failed: {error}")
            with self._lock:
                self._first_failure = self._first_failure or str(error)
            return ServerTurn("", truncated=False, failed=str(error))
        self._read = True
        reason = turn.choice["finish_reason"]
        if turn.truncated and reason != "length":
            self.warn(f"finish_reason {reason!r}: such turns count as truncated")
        return turn

    def check_read(self) -> None:
        """Raise the first failure where no response of this server could be read so far.

        Raises:
            EngineError: then.
        """
        failure, self._first_failure = self._first_failure, ""
        if failure and not self._read:
            raise EngineError(failure)

    def warn(self, message: str) -> None:
        """Log a warning about this server, each one once."""
        with self._lock:
            if message in self._warned:
                return
            self._warned.add(message)
        logger.warning("%s: %s", self.address, message)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the JSON object of its answer.

        A server that wants the limit ``max_tokens`` as ``max_completion_tokens`` gets it so from
        then on.

        Args:
            body: of the request.

        Returns:
            The JSON object of its response.

        Raises:
            ReplyError: when it refuses this request, or answers no JSON object.
            EngineError: when it refuses all, or stays busy.
        """
        if not self._renames:
            try:
                return self._ask(body)
            except _OtherNameError:
                self.warn("the token limit is sent as max_completion_tokens, as this server wants")
                self._renames = True
        limit = {"max_completion_tokens": body["max_tokens"]} if "max_tokens" in body else {}
        return self._ask({k: v for k, v in body.items() if k != "max_tokens"} | limit)

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
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
                return self._parsed(response.read(LARGEST + 1)), 0.0
        except urllib.error.HTTPError as error:
            raw = _read_error(error)
            status = f"status {error.code}: {self._quoted(raw)}"
            if (
                error.code in REFUSED
                and b"max_completion_tokens" in raw
                and b'"max_tokens"' in data
            ):
                raise _OtherNameError from None
            if error.code not in BUSY:
                kind = ReplyError if error.code in REFUSED else EngineError
                raise kind(f"{self.address}: expected status 200, got {status}") from None
            return status, _seconds(error.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            # Refused, reset and cut connections, names that do not resolve, time-outs.
            return f"{type(error).__name__}: {error}", 0.0

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > LARGEST:
            raise ReplyError(f"{self.address}: expected at most {LARGEST} bytes, got more")
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):  # the latter for brackets that are nested too deep
            answer = None
        if not isinstance(answer, dict):
            raise ReplyError(f"{self.address}: expected a JSON object, got {self._quoted(raw)}")
        return answer

    def _quoted(self, raw: bytes) -> str:
        """Return the start of a response without the key, which some servers repeat."""
        text = raw.decode("utf-8", "replace")
        if self._key:
            text = text.replace(self._key, "***")
        return repr(text[:200])


def shown(value: object) -> str:
    """Return the start of a value from a response, which may be huge or deeply nested."""
    return reprlib.repr(value)[:200]


def message_json(message: Message) -> dict[str, Any]:
    """Return a message as servers take it: images as PNG data addresses, the policy's as text."""
    if message.role == "assistant":
        return {"role": "assistant", "content": plain_text(message.text)}
    return to_chat([message], "openai")[0]


@dataclass(frozen=True)
class ServerTurn:
    """One turn as a server gave it.

    Args:
        text: the action, with a think that came apart from it; empty for a failed turn.
        truncated: the text did not end by itself.
        failed: why the response cannot be read, empty for one that can.
        choice: the response's first choice, empty for a failed turn.
        answer: the whole response.
    """

    text: str
    truncated: bool
    failed: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)


def read_turn(answer: Mapping[str, Any]) -> ServerTurn:
    """Return the turn that a response holds.

    A turn that a filter stopped, or that ends for no reason that is known, is truncated.

    Args:
        answer: the JSON object of a response.

    Raises:
        ReplyError: when a field is missing or has another type; names it.
    """
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        # Servers differ in the name of this field.
        thought = message.get("reasoning_content") or message.get("reasoning")
        text = message.get("content") if thought else message["content"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReplyError(
            "server: expected choices[0] with message.content and finish_reason, "
            f"got {shown(answer)} ({type(error).__name__}: {error})"
        ) from error
    for value in (text, thought, reason):
        if not (value is None or isinstance(value, str)):
            raise ReplyError(
                "server: expected text, reasoning and finish_reason as text or null, "
                f"got {shown(value)}"
            )
    truncated = reason not in ENDED
    action = whole_action(text or "", thought, truncated=truncated)
    return ServerTurn(action, truncated, choice=choice, answer=answer)


def _read_error(error: urllib.error.HTTPError) -> bytes:
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
