"""A server of scenes in this process, sessions that may send anything, and a neighbour beside them.

Needs the extra ``openenv``, but only once something is called.
"""

from __future__ import annotations

import json
import logging
import re
import site
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

from tests.attacks.actions import expect

import dip_env

SECONDS = 2.0
"""Computing that a message may take, the sender's own included."""
PATIENCE = 120.0
"""Seconds of the clock to wait for an answer; the machine may be busy."""
LINGERING = 60.0
"""Seconds of the clock in which the place of a session that was left must be free again."""
SESSIONS = 4
RULES = {"view_size": 64, "crop_size": 32, "max_looks": 2, "max_regions": 2, "max_turns": 3}
LOOK = "<think>closer</think><look>[[8,8,40,50]]</look>"
ANSWER = "<think>one</think><answer>[[10,20,30,60]]</answer>"
NEIGHBOURS_ID = "neighbour"
ERRORS = (
    *("INVALID_JSON", "UNKNOWN_TYPE", "VALIDATION_ERROR", "EXECUTION_ERROR"),
    *("CAPACITY_REACHED", "SESSION_ERROR"),
)
CLIENTS_FAULTS = re.compile(r"^websockets\b|: Invalid UTF-8 sequence| LocalProtocolError\(")
"""Faults of clients that the web server logs as errors: texts and handshakes that are none, and a
request whose body turns out to be wrong while it is being answered."""
KNOWN = (
    {"type": "reset", "data": {"seed": 5, "episode_id": NEIGHBOURS_ID}},
    {"type": "step", "data": {"text": LOOK}},
    {"type": "state"},
    {"type": "step", "data": {"text": ANSWER}},
    {"type": "state"},
    # Without a seed: the scene follows from the seed above, whoever draws numbers in between.
    {"type": "reset"},
    {"type": "step", "data": {"text": "out of the grammar"}},
    {"type": "step", "data": {"text": LOOK}},
    {"type": "step", "data": {"text": ANSWER}},
    {"type": "state"},
)
"""What the neighbour says, over and over."""
_FOLDERS = {str(Path(dip_env.__file__).parents[1]), sys.prefix, *site.getsitepackages()}
_INTERNAL = re.compile(
    "|".join([r"Traceback \(most recent", r'File \\?"', r"\.py\b", *map(re.escape, _FOLDERS)])
)


def check_text(text: str) -> None:
    """Check that nothing of the server's inside is told."""
    told = _INTERNAL.search(text)
    expect(told is None, f"an answer tells {told and told[0]!r}: {text[:200]}")


def check_answer(text: str | bytes) -> dict[str, Any]:
    """Check that an answer belongs to the protocol, and return it."""
    expect(isinstance(text, str), f"an answer in bytes: {text[:99]!r}")
    check_text(str(text))
    answer = json.loads(text, parse_constant=_no_json)
    expect(isinstance(answer, dict), f"an answer that is no object: {text[:99]!r}")
    kind, data = answer.get("type"), answer.get("data")
    expect(kind in ("observation", "state", "error", "mcp"), f"an answer of type {kind!r}")
    expect(isinstance(data, dict), f"an answer without data: {text[:99]!r}")
    if kind == "error":
        expect(data.get("code") in ERRORS, f"an error of code {data.get('code')!r}")
        expect(isinstance(data.get("message"), str), "an error without a message")
    if kind == "observation":
        reward = data["reward"]
        expect(reward is None or 0 <= reward <= 1 + 1e-9, f"reward {reward} is not in [0, 1]")
    return answer


def _no_json(word: str) -> None:
    raise AssertionError(f"an answer holds {word}, which is not JSON")


class Session:
    """A client that may send anything.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect

        # A socket of our own: no proxy of the surroundings comes between.
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        link = connect(
            f"ws://127.0.0.1:{port}/ws", sock=self.socket, max_size=None, open_timeout=PATIENCE,
            ping_interval=None, close_timeout=PATIENCE,
        )  # fmt: skip
        self._exit = ExitStack()
        self._link = self._exit.enter_context(link)
        self.open = True
        self.state: dict[str, Any] | None = None

    def send(self, message: Any) -> None:
        """Send a text or bytes as they are, anything else as JSON."""
        whole = isinstance(message, str | bytes)
        self._act(lambda: self._link.send(message if whole else json.dumps(message)))

    def send_raw(self, data: bytes) -> None:
        """Send bytes that need not be a message."""
        try:
            self.socket.sendall(data)
        except OSError:  # the server has hung up, which the next answer tells
            self.open = False

    def answer(self) -> dict[str, Any] | None:
        """Return the next answer, None where the server has ended this session."""
        text = self._act(lambda: self._link.recv(timeout=PATIENCE))
        return None if text is None else check_answer(text)

    def ask(self, message: Any) -> dict[str, Any] | None:
        """Send a message and return the answer to it."""
        self.send(message)
        return self.answer()

    def close(self) -> None:
        """Say goodbye."""
        self._exit.close()
        self.open = False

    def vanish(self) -> None:
        """Leave without a goodbye."""
        with suppress(OSError):  # where the server was faster
            self.socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def _act(self, act: Callable[[], Any]) -> Any:
        from websockets.exceptions import ConnectionClosed

        try:
            return act()
        except ConnectionClosed:
            self.open = False
            return None
        except TimeoutError:
            raise AssertionError(f"no answer within {PATIENCE:.0f} s") from None


class Server:
    """A server as its command line starts it, and the neighbour that plays on it.

    Args:
        port: to connect to.
        thread: that serves.
        log: what the server logs as errors.
    """

    def __init__(self, port: int, thread: Thread, log: list[str]) -> None:
        self.port, self._thread, self._log = port, thread, log
        self._neighbour, self._said = Session(port), count()
        self._alone = [self._neighbour.ask(message) for message in KNOWN]
        for message, answer in zip(KNOWN, self._alone, strict=True):
            expect(answer and answer["type"] != "error", f"{message} alone: {answer}")

    def enter(self) -> Session:
        """Return a new session; one that has just been left may take a moment to end."""
        deadline = time.monotonic() + LINGERING
        while True:
            session = Session(self.port)
            answer = session.ask({"type": "state"})
            if answer is not None and answer["type"] == "state":
                session.state = answer["data"]
                return session
            session.close()
            expect(time.monotonic() < deadline, f"no new session is possible: {answer}")
            time.sleep(0.01)

    def let_neighbour_play(self) -> None:
        """Let the neighbour act once more, and check that it sees and earns what it did alone."""
        turn = next(self._said) % len(KNOWN)
        answer = self._neighbour.ask(KNOWN[turn])
        if answer != self._alone[turn]:
            told = "None" if answer is None else json.dumps(answer)[:200]
            raise AssertionError(f"a neighbour got another answer to {KNOWN[turn]}: {told}")

    def check(self) -> None:
        """Check that the server lives and has logged no error since the last check."""
        expect(self._thread.is_alive(), "the server has ended")
        told, self._log[:] = list(self._log), []
        expect(not told, f"the server logged {told[:1]}")

    def leave(self) -> None:
        """End the neighbour's session."""
        self._neighbour.close()


class _Errors(logging.Handler):
    """Keeps what the server logs as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of the server's own faults."""
        error = record.exc_info[1] if record.exc_info else None
        told = f"{record.name}: {record.getMessage()[:200].strip()} {error!r}"[:600]
        if not CLIENTS_FAULTS.search(told):
            self.told.append(told)


@contextmanager
def serving() -> Iterator[Server]:
    """Serve toy scenes to ``SESSIONS`` clients."""
    import uvicorn

    app, settings = _command_line()
    inner = uvicorn.Server(uvicorn.Config(app, **settings, log_config=None))
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=inner.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not inner.started:
                expect(thread.is_alive(), "the server did not start")
                time.sleep(0.01)
            server = Server(listener.getsockname()[1], thread, errors.told)
            yield server
            server.leave()
        finally:
            # Sessions that are still open are not waited for.
            inner.should_exit = inner.force_exit = True
            thread.join(PATIENCE)
            logging.getLogger().removeHandler(errors)
    expect(not thread.is_alive(), "the server does not end")


def _command_line() -> tuple[Any, dict[str, Any]]:
    """Return the app and the settings with which the command line would serve it."""
    import uvicorn

    from dip_agents.adapters.openenv import server

    words = ["--scenes", "toy", "--keywords", json.dumps(RULES), "--max-sessions", str(SESSIONS)]
    with (
        mock.patch.object(sys, "argv", ["server", *words]),
        mock.patch.object(uvicorn, "run") as run,
    ):
        server.main()
    ((app,), settings) = run.call_args
    return app, {name: value for name, value in settings.items() if name not in ("host", "port")}
