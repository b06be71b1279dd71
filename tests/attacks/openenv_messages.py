"""Send hostile messages to the OpenEnv server, beside a neighbour that plays a known episode.

Each try is one message. It is answered by an error of the protocol, or it ends the session that
sent it; a refused message leaves its session as it was. The neighbour sees and earns what it did
alone, no answer tells anything of the server's inside, and in the end a new session is possible.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from tests.attacks._openenv_server import (
    ANSWER,
    LOOK,
    NEIGHBOURS_ID,
    PATIENCE,
    SECONDS,
    SESSIONS,
    Server,
    Session,
    check_text,
    serving,
)
from tests.attacks.actions import expect, hostile_action

NEEDS = ("openenv",)
"""Packages without which there is nothing to attack."""
Found = dict[str, tuple[int, list[str]]]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**64, 10**4000, 0.5, 1e300, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "\ud800", "\x00", "\u2028", "🙂", "x" * 300, "y" * 200_000),
    *([], [[]], [1, 2], ["\ud800"], [0] * 50_000, {}, {"a": {"b": []}}, {"\ud800": "\udfff"}),
)
"""What a field may hold instead."""
ODD_NAMES = (
    *("self", "func", "args", "session_id", "action", "type", "data", "", "\ud800", "options"),
)
ODD_TYPES = (
    *("", "fly", "RESET", "__class__", "close ", "\ud800", "error", "observation", "z" * 9999),
)
METHODS_OF_HTTP = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "get", "\x00")
METHODS = (
    *("tools/list", "tools/call", "openenv/session/create", "openenv/session/close"),
    *("", "initialize", "\ud800", "openenv/session/"),
)
PATHS = (
    *("/", "/ws", "/health", "/metadata", "/schema", "/mcp", "/reset", "/step", "/state", "/web"),
    *("/docs", "/../../etc/passwd", "/%00", "/%ff%fe", "//ws", "/ws/..", "*", "http://a/", "/?a=%"),
    "/" + "a" * 70_000,
)
HEADERS = (
    *(b"Content-Length: -1", b"Content-Length: 5", b"Content-Length: " + b"9" * 400),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"no header at all", b": empty"),
    *(b"X: " + b"y" * 90_000, b"\xff\xfe: \x00", b"Upgrade: websocket\r\nConnection: Upgrade"),
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 99\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


class World:
    """A server, and the session from which hostile messages are sent.

    Args:
        server: to attack.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = server.enter()

    def leave(self) -> None:
        """End the session, and check that all that are allowed can be had again."""
        self.session.close()
        crowd = [self.server.enter() for _ in range(SESSIONS - 1)]
        for session in crowd:
            answer = session.ask({"type": "reset", "data": {"scene": 0}})
            expect(answer and answer["type"] == "observation", f"a new session got {answer}")
            session.close()
        self.server.check()

    def prepare(self, rng: np.random.Generator) -> Session:
        """Return an open session: new, in mid-episode or after an episode."""
        if self.session.open and rng.random() < 0.1:
            self.session.close()
        if not self.session.open:
            self.session = self.server.enter()
        if rng.random() < 0.3:
            self.session.ask({"type": "reset", "data": {"scene": int(rng.integers(4))}})
        self._remember()
        return self.session

    def send(self, rng: np.random.Generator, message: Any, wrong: bool = True) -> None:
        """Send one message while the neighbour plays, and check what comes of it.

        Args:
            rng: decides on the session, and whether the neighbour plays before the answer.
            message: as for ``Session.send``.
            wrong: whether the server must refuse it.
        """
        session = self.prepare(rng)
        with_neighbour = bool(rng.integers(2))
        began = time.process_time()
        session.send(message)
        if with_neighbour:
            self.server.let_neighbour_play()
        answer = session.answer()
        self._check(began, time.process_time())
        refused = answer is None or answer["type"] == "error" or "error" in answer["data"]
        expect(refused or not wrong, f"{str(message)[:200]!r} was taken: {str(answer)[:200]}")
        if refused and session.open:
            before = session.state
            self._remember()
            expect(not session.open or session.state == before, f"a refused {message!r} counted")

    def send_raw(self, rng: np.random.Generator, data: bytes, leave: bool) -> None:
        """Send bytes on an open socket; hang up in the middle, or wait until the server does."""
        session = self.prepare(rng)
        began = time.process_time()
        session.send_raw(data)
        self.server.let_neighbour_play()
        if leave:
            session.vanish()
        else:
            while session.open:
                session.answer()
        self._check(began, time.process_time())

    def _remember(self) -> None:
        """Keep the state of the session, as far as it can be asked for."""
        answer = self.session.ask({"type": "state"})
        self.session.state = None if answer is None else answer["data"]

    def _check(self, began: float, ended: float) -> None:
        self.server.let_neighbour_play()
        self.server.check()
        expect(ended - began <= SECONDS, f"a message took {ended - began:.1f} s")


def attack(rng: np.random.Generator, tries: int) -> Found:
    """Send hostile messages.

    Args:
        rng: what the tries depend on.
        tries: messages, shared evenly among the kinds.

    Returns:
        By kind: its tries, and a sentence for each that failed.
    """
    found: Found = {}
    share = -(-tries // len(KINDS))
    with ExitStack() as stack:
        world = World(stack.enter_context(serving()))
        for kind, play in KINDS.items():
            failures = []
            for seed in rng.integers(2**32, size=share).tolist():
                try:
                    play(np.random.default_rng(seed), world)
                except Exception as error:  # what is looked for
                    failures.append(f"{kind}, seed {seed}: {words_of(error)}")
                    # A server of its own, so that what is broken now breaks no later try.
                    stack.close()
                    world = World(stack.enter_context(serving()))
            found[kind] = share, failures
        try:
            world.leave()
        except Exception as error:
            found["afterwards"] = 1, [words_of(error)]
    return found


def words_of(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error)[:400]}"


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Return one of several."""
    return values[int(rng.integers(len(values)))]


def valid(rng: np.random.Generator) -> dict[str, Any]:
    """Return a message of the protocol with all of its fields."""
    data = {"reset": {"seed": 3, "episode_id": "mine", "scene": 1}, "step": {"text": LOOK}}
    kind = pick(rng, sorted(data))
    return {"type": kind, "data": data[kind]}


def send_text(rng: np.random.Generator, world: World) -> None:
    """Send what is not JSON, or only nearly."""
    whole = json.dumps(valid(rng))
    place = int(rng.integers(1, len(whole)))
    depth = int(rng.integers(1, 200_000))
    texts = (
        whole[:place],
        whole[place:],
        whole + whole,
        whole.replace('"', "'"),
        whole.replace(": ", " ", 1),
        "[" * depth,
        '{"a":' * depth,
        "9" * int(rng.integers(1, 9000)),
        '{"type": "reset", "data": {"seed": ' + "9" * 5000 + "}}",
        '{"type": "step", "data": {"text": ' + "[" * 700 + "]" * 700 + "}}",
        "",
        "\x00",
        "\ufeff" + whole,
        rng.bytes(50).decode("latin-1"),
    )
    world.send(rng, pick(rng, texts))


def send_other_json(rng: np.random.Generator, world: World) -> None:
    """Send JSON that is no message, or one of an unknown type."""
    message = pick(rng, ODD)
    if rng.random() < 0.5:
        message = valid(rng) | {"type": pick(rng, (*ODD_TYPES, *ODD))}
    world.send(rng, json.dumps(message))


def send_odd_fields(rng: np.random.Generator, world: World) -> None:
    """Send a message with a field too few or too many."""
    message = valid(rng)
    names = [pick(rng, ODD_NAMES) + str(k) * bool(k) for k in range(int(rng.integers(1, 50)))]
    many = {f"{k:x}": 1 for k in range(int(rng.integers(1, 60_000)))}
    tampered = (
        {"data": message["data"]},
        {"type": "step"},
        {"type": "step", "data": {}},
        message | {"more": pick(rng, ODD)},
        message | many,
        {"type": message["type"], "data": message["data"] | dict.fromkeys(names, pick(rng, ODD))},
        {"type": message["type"], "data": message["data"] | many},
        {"type": message["type"], "data": many},
        {"type": "state", "data": {}},
        {"type": "close", "data": {"session_id": NEIGHBOURS_ID}},
    )
    world.send(rng, pick(rng, tampered))


def send_odd_values(rng: np.random.Generator, world: World) -> None:
    """Send a message with a value of another type or out of range."""
    message, value = valid(rng), pick(rng, ODD)
    name = pick(rng, ["data", *message["data"]])
    taken = {  # what the protocol allows after all
        "data": isinstance(value, dict) and not value and message["type"] == "reset",
        "seed": value is None or (isinstance(value, int) and value >= 0),
        "episode_id": value is None or (isinstance(value, str) and len(value) <= 255),
        "scene": value is None or (type(value) is int and value == 0),
        "text": isinstance(value, str),
    }[name]
    if name == "data":
        message["data"] = value
    else:
        message["data"][name] = value
    world.send(rng, message, wrong=not taken)


def send_action(rng: np.random.Generator, world: World) -> None:
    """Send an action, or a reset in mid-episode."""
    texts = (hostile_action(rng), LOOK, ANSWER, "x" * 70_000, "🙂" * 70_000)
    message: dict[str, Any] = {"type": "step", "data": {"text": pick(rng, texts[:1] * 7 + texts)}}
    if rng.random() < 0.3:
        data = {"seed": int(rng.integers(1000)), "episode_id": NEIGHBOURS_ID}
        message = {"type": "reset", "data": pick(rng, ({}, data, {"scene": int(rng.integers(4))}))}
    world.send(rng, message, wrong=False)


def frame(opcode: int, data: bytes, length: int | None = None, masked: bool = True) -> bytes:
    """Return a WebSocket frame; its length may be told wrongly, its mask be left out."""
    told = len(data) if length is None else length
    mask = 128 if masked else 0
    if told < 126:
        head = bytes([opcode, mask | told])
    elif told < 2**16:
        head = bytes([opcode, mask | 126]) + told.to_bytes(2, "big")
    else:
        head = bytes([opcode, mask | 127]) + told.to_bytes(8, "big")
    return head + b"\x00\x00\x00\x00" * masked + data  # this mask leaves the data as they are


def send_frames(rng: np.random.Generator, world: World) -> None:
    """Send frames that are binary, broken or unfinished."""
    whole = json.dumps(valid(rng)).encode()
    if rng.random() < 0.2:
        binary = pick(rng, (whole, rng.bytes(300), b"", rng.bytes(2**20 + 5)))
        world.send(rng, binary)
        return
    text, last = 0x1, 0x80
    broken = (
        frame(last | text, b"\xed\xa0\x80"),  # a surrogate in UTF-8
        frame(last | text, b"\xff\xfe" + whole),
        frame(last | text, whole, masked=False),
        frame(last | 0x40 | text, whole),  # said to be compressed
        frame(last | 0x10 | text, whole),  # a reserved bit
        frame(last | 0x3, whole),  # a reserved kind
        frame(last | 0x0, whole),  # goes on with nothing
        frame(text, whole) + frame(last | text, whole),  # begins again before the end
        frame(last | 0x9, b"p" * 200),  # a ping that is too long
        frame(last | 0x8, b"\x00"),  # half a reason to close
        frame(last | 0x8, (1005).to_bytes(2, "big")),
        frame(last | text, b"", length=2**62),
        frame(last | text, b"a" * (2**20 + 1)),
        rng.bytes(int(rng.integers(2, 200))),
    )
    unfinished = (
        frame(text, whole),
        frame(last | text, whole[:9], length=len(whole)),
        frame(last | text, b"a" * 9999, length=2**20),
        frame(last | text, whole) * int(rng.integers(1, 9)) + frame(text, whole[:5]),
        b"\x81",
        b"",
    )
    leave = bool(rng.integers(2))
    # Noise may begin a long frame, of which the server would await the rest.
    data = pick(rng, unfinished if leave else broken[:-1])
    world.send_raw(rng, broken[-1] if leave and rng.random() < 0.2 else data, leave)


def send_names(rng: np.random.Generator, world: World) -> None:
    """Send what names another session, mostly as a request of the tool protocol."""
    other = str(pick(rng, (NEIGHBOURS_ID, "0", "00000000-0000-4000-8000-000000000000", "*", "")))
    named = {"session_id": pick(rng, (other, *ODD)), "episode_id": NEIGHBOURS_ID, "name": "step"}
    request = {"jsonrpc": "2.0", "id": pick(rng, (1, *ODD)), "method": pick(rng, METHODS)}
    messages = (
        {"type": "mcp", "data": request | {"params": named}},
        {"type": "mcp", "data": request | {"params": pick(rng, ODD)}},
        {"type": "mcp", "data": pick(rng, ODD)},
        {"type": "mcp", "session_id": NEIGHBOURS_ID},
        {"type": "reset", "data": {"session_id": other}},
        {"type": "step", "data": {"text": ANSWER, "episode_id": NEIGHBOURS_ID}},
        {"type": "state", "session_id": other},
        {"type": "close", "session_id": other},
    )
    # A request to open a session is answered with the name of the session that asks.
    wrong = request["method"] != "openenv/session/create"
    world.send(rng, pick(rng, messages[:3] * 3 + messages), wrong=wrong)


def send_crowd(rng: np.random.Generator, world: World) -> None:
    """Open more sessions than allowed; the last of them get an error, and all leave somehow."""
    began = time.process_time()
    crowd = [Session(world.server.port) for _ in range(SESSIONS + int(rng.integers(1, 4)))]
    answers = [session.ask({"type": "state"}) for session in crowd]
    world.server.let_neighbour_play()
    taken = sum(answer is not None and answer["type"] == "state" for answer in answers)
    # Each is one of those allowed beside the neighbour.
    expect(taken <= SESSIONS - 1, f"{taken + 1} sessions at a time, of {SESSIONS} allowed")
    for session in crowd:
        session.vanish() if rng.random() < 0.5 else session.close()
    spent = (time.process_time() - began) / len(crowd)
    expect(spent <= SECONDS, f"a session took {spent:.1f} s")
    world.server.check()
    world.server.enter().close()


def send_http(rng: np.random.Generator, world: World) -> None:
    """Send a request of HTTP that is odd or not finished."""
    version = pick(rng, ("1.1", "1.0", "2", "9.9", "x"))
    first = f"{pick(rng, METHODS_OF_HTTP)} {pick(rng, PATHS)} HTTP/{version}"
    lines = [first.encode(), b"Host: a", b"Connection: close"]
    lines += [pick(rng, HEADERS) for _ in range(int(rng.integers(3)))]
    body = pick(rng, (b"", b"{}", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", rng.bytes(2000)))
    data = b"\r\n".join(lines) + b"\r\n\r\n" + body
    began = time.process_time()
    with socket.create_connection(("127.0.0.1", world.server.port), PATIENCE) as link:
        leave = rng.random() < 0.3
        try:
            link.sendall(data[: int(rng.integers(len(data)))] if leave else data)
            link.shutdown(socket.SHUT_WR)
            reply = b"" if leave else b"".join(iter(lambda: link.recv(65536), b""))
        except ConnectionError:  # refused in the middle
            reply = b""
    spent = time.process_time() - began
    text = reply.decode(errors="replace")
    check_text(text)
    expect(not text.startswith("HTTP/1.1 5"), f"{data[:200]!r} was answered {text[:300]!r}")
    world.server.let_neighbour_play()
    world.server.check()
    expect(spent <= SECONDS, f"a request took {spent:.1f} s")


KINDS: dict[str, Callable[[np.random.Generator, World], None]] = {
    "text": send_text,
    "other JSON": send_other_json,
    "odd fields": send_odd_fields,
    "odd values": send_odd_values,
    "action": send_action,
    "frames": send_frames,
    "names": send_names,
    "crowd": send_crowd,
    "http": send_http,
}
