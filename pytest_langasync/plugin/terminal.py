"""What the person sees under pytest: progress, letters, summary, exit status, report file.

Registered in every active process; xdist workers have no terminal and hand their books to the
controller. Strings come from ``reporting``; this module only carries them to pytest's terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_langasync.config import CLOCK, Settings
from pytest_langasync.costs.prices import Estimate
from pytest_langasync.models import Answer, Call, Event, Job, MissingCall
from pytest_langasync.plugin import exit_status
from pytest_langasync.plugin.other_plugins import REALTIME_BECAUSE

if TYPE_CHECKING:
    from pytest_langasync.engine.run import Run
    from pytest_langasync.plugin.xdist_messages import WorkerBooks
    from pytest_langasync.reporting.model import TestReport
    from pytest_langasync.reporting.progress import Gathering, Progress
    from pytest_langasync.reporting.terminal import Line

__all__ = ["MISSED", "Reporter"]

LONGEST_FAILURE = 2_000
"""How many characters of a failure's message a report holds."""

MISSED = "missed"
"""The section of a missed test's report that holds its failure."""


class Reporter:
    """Collects what the session did and shows it.

    ``started_at`` is now unless the run began in another process (seconds since the epoch).
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, started_at: float | None = None
    ) -> None:
        self.config = config
        self.settings = settings
        self.started_at = CLOCK.now() if started_at is None else started_at
        self.deferred: dict[str, str] = {}
        self.verdicts: dict[str, str] = {}
        self.scores: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.xfails: dict[str, str] = {}
        """Of tests that a mark ``xfail`` decided: its reason."""
        self.in_place: dict[str, set[str]] = {}
        """By what runs their function many times: the tests that are in real time for that."""
        self.troubles: list[str] = []
        self.not_reproducible: list[str] = []
        self.estimates: Sequence[tuple[MissingCall, Estimate]] = ()
        self._interrupted: Sequence[Job] = ()
        self._left = 0
        self._unseen = ""
        """The job to resume, where nobody had to look for it and the cache does not know it."""
        self._broken = False
        self._progress: Progress | None = None
        self._gathering: Gathering | None = None
        self._session: pytest.Session | None = None
        self._run: Run | None = None

    def follow(self, run: Run) -> None:
        """Report of this run. There is none where tests are only collected."""
        self._run = run

    @property
    def terminal(self) -> Any:
        """pytest's terminal reporter, or None (``-p no:terminal``, xdist workers).

        Its writer ``_tw`` and its ``currentfspath`` are not public; that lines of progress stand
        on their own between letters depends on them: ``TestLog`` and ``TestTerminal`` see it.
        """
        return self.config.pluginmanager.get_plugin("terminalreporter")

    # ---- while it runs

    def parked(self, tests: int) -> None:
        """Show on a terminal that tests are being gathered: a parked one has no letter yet."""
        terminal = self.terminal
        if self._gathering is None:
            shown = terminal is not None and terminal.isatty and terminal.verbosity >= 0
            if not shown or self.config.option.capture == "no":
                return
            from pytest_langasync.reporting.progress import Gathering

            self._gathering = Gathering(terminal._tw._file, CLOCK.timer, terminal._tw.fullwidth)
        if not terminal._tw.width_of_current_line:
            self._gathering.show(tests)

    def clear(self) -> None:
        """Take the line about gathering away, because something else is about to be written."""
        if self._gathering is not None:
            self._gathering.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Make room for what pytest writes."""
        self.clear()

    def event(self, event: Event) -> None:
        """Show an event of the run."""
        if self.terminal is None:
            return
        if self._progress is None:
            from pytest_langasync.reporting.progress import Progress

            self.clear()
            if self.terminal._tw.width_of_current_line:
                self.terminal._tw.line()
            self.terminal.currentfspath = None
            live = bool(getattr(self.terminal, "isatty", False))
            self._progress = Progress(
                self.terminal.write_line, live=live, clock=CLOCK.now, file=self.terminal._tw._file
            )
            self._progress.__enter__()
        self._progress(event)

    def tick(self) -> None:
        """Show that the wait goes on."""
        if self._progress is not None:
            self._progress.tick()

    def pause(self) -> None:
        """End the display, because tests are about to run or the wait is over."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def failure_section(self, calls: Sequence[tuple[Call, Answer]]) -> str:
        """Return the section of a failing test's report that shows its calls."""
        from pytest_langasync.reporting.terminal import failure_section

        return failure_section(calls, started_at=self.started_at, now=CLOCK.now())

    # ---- what ends a run early, or goes wrong in it

    def trouble(self, text: str) -> None:
        """Tell of something that went wrong, once, at the end."""
        if text not in self.troubles:
            self.troubles.append(text)

    def stopped(self, parked: int) -> None:
        """Note that the run stops while this many tests are parked."""
        self._left = parked

    def interrupted(self, jobs: Sequence[Job]) -> None:
        """Note which jobs go on at the providers after Ctrl-C."""
        self._interrupted = jobs

    def worker_lost(self) -> None:
        """Note that a worker of a distributed run died or failed: the run cannot be green."""
        self._broken = True

    def strayed(self, nodeid: str) -> None:
        """Note a test that is not reproducible."""
        self.not_reproducible.append(nodeid)

    # ---- the end of the session

    def finish(self) -> None:
        """Close the books."""
        run = self._run
        assert run is not None
        run.settle_books()
        for problem in run.store.problems:
            self.trouble(problem)
        job_id = self.settings.resume
        if job_id not in ("", "last") and not (self._left or run.store.job(job_id)):
            self._unseen = job_id

    def books(self) -> WorkerBooks:
        """Return a worker's part of the books: what ``absorb`` takes."""
        from pytest_langasync.plugin.xdist_messages import WorkerBooks

        run = self._run
        assert run is not None
        return WorkerBooks(
            ledger=run.ledger.books(),
            used=run.used,
            troubles=[*self.troubles, *run.store.problems],
            not_reproducible=self.not_reproducible,
            left=self._left,
        )

    def absorb(self, books: WorkerBooks) -> None:
        """Enter a worker's books here."""
        assert self._run is not None
        self._run.absorb(books.ledger, books.used)
        for trouble in books.troubles:
            self.trouble(trouble)
        self.not_reproducible += books.not_reproducible
        self._left += books.left

    def estimated(self, estimates: Sequence[tuple[MissingCall, Estimate]]) -> None:
        """Keep what the missing calls would cost for the summary."""
        self.estimates = estimates

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note verdicts, scores, and what is deferred, wherever the test ran."""
        if hasattr(report, "langasync_gate"):
            return
        if data := getattr(report, "langasync", None):
            own = ("required", "realtime_because")
            self.scores[report.nodeid] = {k: v for k, v in data.items() if k not in own}
            if runner := data.get("realtime_because"):
                self.in_place.setdefault(runner, set()).add(report.nodeid)
        reason = getattr(report, "langasync_deferred", None)
        if reason is not None:
            self.deferred[report.nodeid] = reason
        elif report.when == "call" or report.outcome != "passed":
            self.verdicts[report.nodeid] = "error" if self._is_error(report) else report.outcome
            if hasattr(report, "wasxfail"):
                self.xfails[report.nodeid] = str(report.wasxfail)
            crash: Any = getattr(report.longrepr, "reprcrash", None)
            missed = dict(report.sections).get(MISSED) if data and data.get("missed") else None
            if report.failed or missed:
                said = missed or (crash.message if crash else report.longreprtext)
                self.failures[report.nodeid] = said[:LONGEST_FAILURE]

    @staticmethod
    def _is_error(report: pytest.TestReport) -> bool:
        return report.failed and report.when != "call"

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Give deferred tests a letter of their own."""
        if getattr(report, "langasync_deferred", None) is None:
            return None
        return "deferred", "D", ("DEFERRED", {"yellow": True})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep deferred tests for ``--lf``; never let a run with unjudged tests be green."""
        self.clear()
        self._session = session
        # ``lastfailed`` is what pytest's cacheprovider writes: ``test_lf_keeps_the_deferred``.
        lf = self.config.pluginmanager.get_plugin("lfplugin")
        for nodeid in self.deferred:
            if lf is not None and getattr(lf, "lastfailed", None) is not None:
                lf.lastfailed[nodeid] = True
        exit_status.settle(session, deferred=bool(self.deferred), broken=self._broken)
        whole = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        stopped = self._left or session.shouldfail or session.shouldstop
        if (
            self._run
            and whole
            and not (self.deferred or stopped or hasattr(self.config, "workeroutput"))
        ):
            self._run.memory.end_run()

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Write the summary."""
        from pytest_langasync.reporting import terminal

        if self._session is not None:  # what pytest hands over is older than our own status
            exitstatus = int(self._session.exitstatus)
        lines = [*self._figures(terminalreporter._tw.fullwidth)]
        lines += [terminal.notice(note) for note in self._notes(exitstatus)]
        terminalreporter.ensure_newline()
        if lines:
            terminalreporter.section("langasync", sep="-", bold=True)
        for line in lines:
            terminalreporter.write_line(line.text, **line.markup)

    def _figures(self, width: int) -> Iterable[Line]:
        from pytest_langasync.reporting import terminal

        if self._run is None:
            return
        summary = self._run.ledger.summary()
        ran = ("passed", "failed")
        unseen = tuple(test for test in summary.unseen if self.verdicts.get(test) in ran)
        # Of all tests of a suite, most may have no business with a model.
        hidden = self.settings.all and bool(summary.rows)
        summary = replace(summary, unseen=() if hidden else unseen)
        verbose = self.config.get_verbosity() > 0
        lines = terminal.summary_lines(summary, verbose=verbose, width=width)
        if self.settings.estimate and not self.config.option.collectonly:
            yield from terminal.estimate_lines(self._estimated())
            lines = lines if summary.total.requests else []
        yield from lines
        if self.settings.sandbox and lines:
            yield terminal.Line(
                "sandbox: nothing was paid; the sums are what a real run would have cost"
            )

    def _estimated(self) -> dict[tuple[str, str], Estimate]:
        from pytest_langasync.costs.prices import add_estimates

        groups: dict[tuple[str, str], list[Estimate]] = {}
        for pending, estimate in self.estimates:
            groups.setdefault((pending.target.provider, pending.model), []).append(estimate)
        return {name: add_estimates(group) for name, group in groups.items()}

    def _notes(self, exitstatus: int) -> Iterable[str]:
        from pytest_langasync.reporting.progress import interrupted_lines

        yield from (f"trouble: {trouble}" for trouble in self.troubles)
        for runner, tests in self.in_place.items():
            how_many = "1 test" if len(tests) == 1 else f"{len(tests):,} tests"
            yield f"in real time: {how_many} of {runner}, {REALTIME_BECAUSE[runner]}"
        for nodeid in self.not_reproducible:
            yield f"not reproducible: {nodeid}"
        if self._left:
            were = "1 test was" if self._left == 1 else f"{self._left:,} tests were"
            yield f"stopped: {were} still parked; nothing more was sent"
        if self._unseen and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            yield f"--langasync-resume={self._unseen}: not looked at: no test waits for an answer"
        if self._interrupted:
            yield from interrupted_lines(self._interrupted)
        if self.deferred:
            yield from self._deferred_lines(exitstatus)

    def _deferred_lines(self, exitstatus: int) -> Iterable[str]:
        if exitstatus == pytest.ExitCode.USAGE_ERROR:  # whose message says why
            yield f"{len(self.deferred):,} deferred"
            return
        status = f" (exit status {exitstatus})" if exitstatus == exit_status.EX_TEMPFAIL else ""
        yield f"{len(self.deferred):,} deferred{status}:"
        if self.terminal.hasopt("skipped"):  # -rs, -ra
            for nodeid, reason in self.deferred.items():
                yield from f"  {nodeid}: {reason}".splitlines()
        else:
            reasons = dict.fromkeys(self.deferred.values())
            yield from (f"  {line}" for reason in list(reasons)[:5] for line in reason.splitlines())
            if len(reasons) > 5:
                yield f"  … and {len(reasons) - 5} more reasons (-rs shows each)"
        sends = not (self.settings.offline or self.settings.estimate)
        if sends and not (self._interrupted or self.config.getoption("setuponly", False)):
            yield "run the same command again to collect them"

    # ---- for the record

    def tests(self) -> list[TestReport]:
        """Return each test's verdict and scores."""
        from pytest_langasync.reporting.model import TestReport

        verdicts = self.verdicts | dict.fromkeys(self.deferred, "deferred")
        told: list[TestReport] = []
        for nodeid, outcome in verdicts.items():
            known = {"id": nodeid, "outcome": outcome, **self.scores.get(nodeid, {})}
            for name, texts in (("failure", self.failures), ("xfail", self.xfails)):
                if nodeid in texts:
                    known[name] = texts[nodeid]
            told.append(TestReport.model_validate(known))
        return told
