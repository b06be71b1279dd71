import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dip_agents.runtime.interrupts import SIGNALS, InterruptHandler, StopRequestedError


@pytest.fixture(autouse=True)
def default_handlers():
    """Undo what a shell does to commands in the background: they inherit a deaf SIGINT."""
    default = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {one: signal.signal(one, default[one]) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def test_a_signal_interrupts_what_is_interruptible():
    reached = []
    with (
        InterruptHandler() as interrupts,
        pytest.raises(StopRequestedError, match="stopped by SIGTERM"),
        interrupts.interruptible(),
    ):
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the signal")
    assert not reached


def test_a_signal_elsewhere_waits_for_the_next_check():
    with InterruptHandler() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopRequestedError, match="stopped by SIGINT"):
            interrupts.check()
        with pytest.raises(StopRequestedError), interrupts.interruptible():
            pytest.fail("nothing may begin after a signal")


def test_the_signals_are_given_back_and_a_second_one_does_what_it_always_did():
    before = [signal.getsignal(one) for one in SIGNALS]
    with InterruptHandler() as interrupts:
        assert [signal.getsignal(one) for one in SIGNALS] != before
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.received is signal.SIGINT
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_leaves_the_signals_alone():
    def run():
        with InterruptHandler() as interrupts, interrupts.interruptible():
            during.append([signal.getsignal(one) for one in SIGNALS])

    before, during = [signal.getsignal(one) for one in SIGNALS], []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [before]


@pytest.mark.parametrize(
    ("after", "code", "message"),
    [("stuck()", 2, "dip: the exit message\n"), ("pass", 0, "")],
)
def test_only_a_process_that_handles_no_signal_is_ended_with_its_exit_message(after, code, message):
    script = textwrap.dedent(
        f"""
        import ctypes, signal, sys
        from dip_agents.runtime.interrupts import InterruptHandler

        def stuck():  # in C, where no handler runs; the signal itself ends only the first pause
            while True:
                ctypes.CDLL(None).pause()

        with InterruptHandler(grace_period=0.5) as interrupts:
            interrupts.exit_message = "the exit message"
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
    assert (run.returncode, errors) == (code, message)
