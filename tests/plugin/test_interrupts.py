"""Ctrl-C while a run waits."""

from __future__ import annotations

import signal
import sys
import threading

import pytest
from support.suite import ONE_STEP, SLOW, Suite, start, until

from pytest_langasync.plugin.interrupts import PatientInterrupts
from pytest_langasync.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def test_two_quick_ones_end_the_run_in_order(suite: Suite, provider: Sandbox) -> None:
    suite.write(ONE_STEP)
    provider.set_faults(SLOW)
    process = start(suite)
    until(process, "in_progress 0/1")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 2, shown
    assert "1 job goes on at the provider" in shown
    assert "Traceback" not in shown and "INTERNALERROR" not in shown


def test_a_later_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = PatientInterrupts()
    interrupts.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr("pytest_langasync.plugin.interrupts.PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        interrupts.uninstall()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    interrupts = PatientInterrupts()
    try:
        interrupts.install()
        signal.raise_signal(signal.SIGINT)
        interrupts.uninstall()
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 2


def test_a_thread_leaves_signals_alone() -> None:
    interrupts = PatientInterrupts()
    thread = threading.Thread(target=interrupts.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
