"""Interrupts of a run: Ctrl-C, or the SIGTERM of a launcher or scheduler."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from dip_env.errors import DipError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequestedError(DipError, RuntimeError):
    """A signal asked the run to stop; its finished steps are saved where possible."""


class InterruptHandler:
    """Turns the first SIGTERM or SIGINT into ``StopRequestedError`` where that does no harm.

    While weights move or files are written, the error waits for ``check``. A second signal ends
    the process at once, as it would have without this.

    Args:
        grace_period: seconds from the signal until a thread prints the exit message and ends the
            process, which may be blocked in a message to a lost peer (Python handlers do not run
            inside NCCL); launchers kill after 30. None for a process without peers.
    """

    def __init__(self, grace_period: float | None = None) -> None:
        """Store the settings; the handlers are installed on entering."""
        self.grace_period = grace_period
        self.exit_message = "stopped"
        """Printed by a process that is ended after the grace period."""
        self.activity = ""
        """What the process is doing, for the message of the error."""
        self.received: signal.Signals | None = None
        self._interruptible = False
        self._previous: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None
        self._wakeup: tuple[int, int, int] | None = None

    def __enter__(self) -> Self:
        """Install the handlers; outside of the main thread nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {one: signal.signal(one, self._handle) for one in SIGNALS}
        if self._previous and self.grace_period is not None:
            read, write = os.pipe()
            os.set_blocking(write, False)
            # Python runs a handler only between two of its instructions; the pipe is written at
            # once, from the signal itself.
            self._wakeup = (read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
            listening = (read, self.grace_period)
            threading.Thread(target=self._listen, args=listening, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        for one, handler in self._previous.items():
            signal.signal(one, handler)
        self._previous = {}
        if self._wakeup is not None:
            _, write, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(write)  # the thread reads the end, and ends
            self._wakeup = None
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt the body of the ``with``.

        Raises:
            StopRequestedError: when a signal arrives, or has arrived before.
        """
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Stop here if a signal has arrived.

        Raises:
            StopRequestedError: when one has.
        """
        if self.received is not None:
            at = f" at {self.activity}" if self.activity else ""
            raise StopRequestedError(f"stopped by {self.received.name}{at}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            for one, handler in self._previous.items():
                signal.signal(one, handler)
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        if self._interruptible:
            self.check()

    def _listen(self, read: int, grace_period: float) -> None:
        """Wait for a signal, and start the timer when one arrives."""
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(16):
                if any(number in SIGNALS for number in numbers) and self._timer is None:
                    self._timer = threading.Timer(grace_period, self._end)
                    self._timer.daemon = True
                    self._timer.start()

    def _end(self) -> None:
        if self._wakeup is not None:  # the ``with`` has not ended in the meantime
            sys.stderr.write(f"dip: {self.exit_message}\n")
            sys.stderr.flush()
            os._exit(2)
