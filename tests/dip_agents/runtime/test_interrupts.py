import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dip_agents.runtime.interrupts import SIGNALS, Stopping, StopRequestedError


@pytest.fixture(autouse=True)
def usual_handlers():
    """Undo what a shell does to commands in the background: they inherit a deaf SIGINT."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {one: signal.signal(one, usual[one]) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def test_a_signal_breaks_off_what_may_be_broken_off():
    reached = []
    with (
        Stopping() as stopping,
        pytest.raises(StopRequestedError, match="stopped by SIGTERM"),
        stopping.breakable(),
    ):
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the signal")
    assert not reached


def test_a_signal_elsewhere_waits_for_the_next_check():
    with Stopping() as stopping:
        stopping.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopRequestedError, match="stopped by SIGINT"):
            stopping.check()
        with pytest.raises(StopRequestedError), stopping.breakable():
            pytest.fail("nothing may begin after a signal")


def test_the_signals_are_given_back_and_a_second_one_does_what_it_always_did():
    before = [signal.getsignal(one) for one in SIGNALS]
    with Stopping() as stopping:
        assert [signal.getsignal(one) for one in SIGNALS] != before
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stopping.received is signal.SIGINT
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_leaves_the_signals_alone():
    def run():
        with Stopping() as stopping, stopping.breakable():
            during.append([signal.getsignal(one) for one in SIGNALS])

    before, during = [signal.getsignal(one) for one in SIGNALS], []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [before]


@pytest.mark.parametrize(
    ("after", "code", "words"),
    [("stuck()", 2, "dip: the last words\n"), ("pass", 0, "")],
)
def test_only_a_process_that_hears_no_signal_is_ended_with_its_last_words(after, code, words):
    script = textwrap.dedent(
        f"""
        import ctypes, signal, sys
        from dip_agents.runtime.interrupts import Stopping

        def stuck():  # in C, where no handler runs; the signal itself ends only the first pause
            while True:
                ctypes.CDLL(None).pause()

        with Stopping(patience=0.5) as stopping:
            stopping.last_words = "the last words"
            print("ready", flush=True)
            sys.stdin.read(1) if {after!r} == "pass" else None
            {after}
        """
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run.stdout.readline()
    os.kill(run.pid, signal.SIGTERM)
    time.sleep(0.1)
    _, errors = run.communicate("x", timeout=30)
    assert (run.returncode, errors) == (code, words)
