"""What a run does when it is told to stop: Ctrl-C, or the SIGTERM of a launcher or scheduler."""

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
    """The run was told to stop; what it had finished is saved as far as it can be."""


class Stopping:
    """Turns the first SIGTERM or SIGINT into ``StopRequestedError`` where that does no harm.

    While weights move or files are written, the error waits for ``check``. A second signal ends
    the process at once, as it would have without this.

    Args:
        patience: seconds from the signal until a thread says the last words and ends the process,
            which may be stuck in a message to a peer that is gone (NCCL hears no signals);
            launchers kill after 30. None for a process without peers.
    """

    def __init__(self, patience: float | None = None) -> None:
        """Note the settings; signals are taken over on entering."""
        self.patience = patience
        self.last_words = "stopped"
        """What a stuck process says."""
        self.received: signal.Signals | None = None
        self._breakable = False
        self._before: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None
        self._wakeup: tuple[int, int, int] | None = None

    def __enter__(self) -> Self:
        """Take the signals over; in another than the main thread they stay as they are."""
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._take) for one in SIGNALS}
        if self._before and self.patience is not None:
            read, write = os.pipe()
            os.set_blocking(write, False)
            # Python runs a handler only between two of its instructions; the pipe is written at
            # once, from the signal itself.
            self._wakeup = (read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
            listening = (read, self.patience)
            threading.Thread(target=self._listen, args=listening, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}
        if self._wakeup is not None:
            _, write, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(write)  # the thread reads the end, and ends
            self._wakeup = None
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Let a signal break off what runs inside.

        Raises:
            StopRequestedError: when one comes, or has come before.
        """
        self._breakable = True
        try:
            self.check()
            yield
        finally:
            self._breakable = False

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopRequestedError: when one has.
        """
        if self.received is not None:
            raise StopRequestedError(f"stopped by {self.received.name}")

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            for one, handler in self._before.items():
                signal.signal(one, handler)
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        if self._breakable:
            self.check()

    def _listen(self, read: int, patience: float) -> None:
        """Wait for a signal, and start the clock when one comes."""
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(16):
                if any(number in SIGNALS for number in numbers) and self._timer is None:
                    self._timer = threading.Timer(patience, self._end)
                    self._timer.daemon = True
                    self._timer.start()

    def _end(self) -> None:
        if self._wakeup is not None:  # not left in the meantime
            sys.stderr.write(f"dip: {self.last_words}\n")
            sys.stderr.flush()
            os._exit(2)
