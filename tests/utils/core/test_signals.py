"""Stop signals: recorded, raised like Ctrl-C where that is asked for, deadly the second time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from utils.config.base import ROOT
from utils.core.errors import StoppedError
from utils.core.signals import StopSignals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@BOTH
def test_signal_is_recorded(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.received == number
        assert signal.getsignal(number) is signal.SIG_DFL  # a second one ends the process
        with pytest.raises(StoppedError, match=rf"^terminated \({number.name}\)$") as ended:
            stop.check()
    assert ended.value.status == 128 + number
    assert signal.getsignal(number) is before


@BOTH
def test_signal_interrupts_only_where_it_may(number: signal.Signals) -> None:
    with StopSignals() as stop, pytest.raises(KeyboardInterrupt), stop.interrupting():
        signal.raise_signal(number)
        pytest.fail("not interrupted")
    with StopSignals() as stop:
        signal.raise_signal(number)  # before the block
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            pytest.fail("not interrupted")
    with StopSignals() as stop:
        with stop.interrupting():
            pass
        signal.raise_signal(number)


def test_pending_signal_of_a_loader_process_prints_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch systems and torchrun send SIGTERM to loader processes, too."""
    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    signal.signal(signal.SIGCHLD, lambda *_: pytest.fail("raised within a step"))
    both = {signal.SIGTERM, signal.SIGCHLD}
    with StopSignals() as stop:
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for number in both:
            signal.raise_signal(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        assert stop.received == signal.SIGTERM
    assert not errors


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_threads_leave_the_handlers_alone() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopSignals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


def test_second_signal_kills() -> None:
    program = (
        "import signal; from utils.core.signals import StopSignals\n"
        "with StopSignals():\n    signal.raise_signal(signal.SIGHUP); signal.raise_signal(signal.SIGTERM)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGTERM
