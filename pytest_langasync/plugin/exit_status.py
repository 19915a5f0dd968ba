"""The exit status of an active run: pytest's own, and 75 where nothing failed but tests wait."""

from __future__ import annotations

import pytest

__all__ = ["EX_TEMPFAIL", "fail", "settle"]

EX_TEMPFAIL = 75
"""``EX_TEMPFAIL`` of ``sysexits.h``: try again later. A run with unjudged tests is never green."""


def settle(session: pytest.Session, *, deferred: bool, broken: bool) -> None:
    """Set the status at the end of a run that pytest takes for good.

    Args:
        session: of the run.
        deferred: whether tests still wait for answers.
        broken: whether a worker of a distributed run died or failed.
    """
    if session.exitstatus in (pytest.ExitCode.OK, EX_TEMPFAIL):
        if broken:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif deferred:
            session.exitstatus = EX_TEMPFAIL


def fail(session: pytest.Session) -> None:
    """Let a run fail that nothing worse has ended."""
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, EX_TEMPFAIL):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
