"""The record of a run: compared with an earlier one, kept in the cache, written as reports.

Registered in the one process that sees the whole run. Strings come from ``reporting``.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pytest_langasync.cache import redaction
from pytest_langasync.config import CLOCK
from pytest_langasync.engine.run import Run
from pytest_langasync.exceptions import CacheError, ConfigurationError
from pytest_langasync.plugin.report_buffer import fail_run
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.reporting.comparison import compare
from pytest_langasync.reporting.history import RunFigures, figures
from pytest_langasync.reporting.jsonfile import run_report, write_text
from pytest_langasync.reporting.model import (
    Comparison,
    NewerReportError,
    RunReport,
    read_report,
)

__all__ = ["RunRecorder"]

CHARTED = 30
"""How many earlier runs the HTML page's charts show."""
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""Names the file whose Markdown GitHub Actions shows on the page of a workflow's run."""


class RunRecorder:
    """Adds the run up once it is over; ``pytest_langasync_run_finished`` hands it on."""

    def __init__(self, config: pytest.Config, run: Run, reporter: Reporter) -> None:
        self.config = config
        self.settings = run.settings
        self.reporter = reporter
        self.store = run.store
        self._ledger = run.ledger
        # Names sort by time, also those of runs that were started in the same second.
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime(reporter.started_at))
        thousandths = int(reporter.started_at % 1 * 1000)
        self.name = f"{started}.{thousandths:03}Z-{secrets.token_hex(2)}"
        self.comparison: Comparison | None = None
        self._named: RunReport | None = None
        self._written: list[tuple[str, str]] = []

    def pytest_sessionstart(self) -> None:
        """Read the baseline and look at the reports' places: a mistake is told before it costs."""
        for name in self.settings.report:
            path = self._place(name)
            folder = next(folder for folder in path.parents if folder.exists())
            if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
                raise pytest.UsageError(f"--langasync-report: {path} cannot be written")
        baseline = self.settings.baseline
        try:
            if baseline.endswith(".json"):
                self._named = self._report(self._place(baseline))
            elif baseline not in ("", "last"):
                self._named = self._kept(baseline)
        except ConfigurationError as error:
            raise pytest.UsageError(f"--langasync-baseline: {error}") from None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Compare before the exit status is settled; keep and write the record after that."""
        self._compare(session)
        yield
        if self.settings.estimate or session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        if self.settings.report:
            self.store.refresh()  # workers wrote answers, too
        run = self._report_of(int(session.exitstatus))
        self._keep(run)
        for name in self.settings.report:
            self._write(name, run)
        if path := os.environ.get(STEP_SUMMARY, ""):
            self._append(Path(path), run)
        self.config.hook.pytest_langasync_run_finished(config=self.config, run=run.without_texts())

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the comparison, and what was written where."""
        from pytest_langasync.reporting.compared import comparison_lines

        wanted = self.settings.baseline or self.settings.fail_on_regression
        if self.comparison is not None:
            terminalreporter.section(
                f"compared with {self.comparison.baseline}", sep="-", bold=True
            )
            verbose = self.config.get_verbosity() > 0
            for line in comparison_lines(self.comparison, verbose=verbose):
                terminalreporter.write_line(line.text, **line.markup)
        elif wanted and not self.settings.estimate:
            terminalreporter.write_line("no earlier run to compare with", yellow=True)
        for name, error in self._written:
            if error:
                trouble = f"--langasync-report: cannot write {name}: {error}"
                terminalreporter.write_line(trouble, red=True)
            else:
                terminalreporter.write_line(f"report written to {name}")

    def _place(self, name: str) -> Path:
        return Path(self.config.invocation_params.dir) / name

    # ---- the past

    def _compare(self, session: pytest.Session) -> None:
        if not (self.settings.baseline or self.settings.fail_on_regression):
            return
        after = RunReport(tests=self.reporter.tests())
        now = after.judged().keys()
        before = self._named or self._last(now)
        if before is None or not now:
            return
        self.comparison = compare(before, after)
        if self.settings.fail_on_regression and self.comparison.regressions:
            message = "; ".join(self.comparison.regressions)
            fail_run(session, "langasync", f"worse than {self.comparison.baseline}: {message}")

    def _runs(self) -> Iterator[RunReport]:
        """Yield the kept runs, newest first."""
        return self.store.history.read(read_report)

    def _last(self, now: Collection[str]) -> RunReport | None:
        """Return the newest whole run that judged at least half of these tests.

        Where a regression fails the run, one that failed so is no measure: the gate would open by
        itself the second time.
        """
        for run in self._runs():
            if run.started_at >= self.reporter.started_at:
                continue
            if run.comparison and run.comparison.regressions and self.settings.fail_on_regression:
                continue
            waited = any(test.outcome == "deferred" for test in run.tests)
            common = sum(name in now for name in run.judged())
            if not waited and 2 * common >= len(now):
                return run
        return None

    def _kept(self, name: str) -> RunReport:
        ids = self.store.history.ids()
        found = [one for one in ids if one.startswith(name)]
        if len(found) != 1:
            known = ", ".join(ids[:5]) or "none is kept"
            what = "is no run" if not found else f"may be {' or '.join(found[:3])}"
            raise ConfigurationError(f"{name!r} {what} in {self.settings.cache}; newest: {known}")
        run = next((run for run in self._runs() if run.name == found[0]), None)
        if run is None:
            raise ConfigurationError(f"the run {found[0]} in {self.settings.cache} is damaged")
        return run

    def _report(self, path: Path) -> RunReport:
        try:
            run = read_report(json.loads(path.read_bytes()))
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
        except NewerReportError:
            raise ConfigurationError(f"{path} was written by a newer pytest-langasync") from None
        except ValueError as error:
            raise ConfigurationError(
                f"{path} is no report of --langasync-report: {error}"
            ) from None
        return run if run.name else run.model_copy(update={"name": path.name})

    # ---- the present

    def _report_of(self, exit_status: int) -> RunReport:
        evals = self.config.pluginmanager.get_plugin("langasync-evals")
        listeners = self.config.hook.pytest_langasync_run_finished.get_hookimpls()
        return run_report(
            self._ledger,
            self.reporter.tests(),
            now=CLOCK.now(),
            calls=bool(self.settings.report or listeners),
            name=self.name,
            exit_status=exit_status,
            settings=self.settings.shown(),
            gates=evals.gates.results() if evals is not None else [],
            comparison=self.comparison,
        )

    def _keep(self, run: RunReport) -> None:
        if run.judged():
            try:
                self.store.history.add(self.name, run.kept())
            except CacheError as error:
                self.reporter.trouble(str(error))

    def _write(self, name: str, run: RunReport) -> None:
        path, error = self._place(name), ""
        try:
            write_text(path, self._page(name, run))
        except OSError as trouble:
            error = str(trouble)
        self._written.append((name, error))

    def _page(self, name: str, run: RunReport) -> str:
        if name.endswith(".md"):
            from pytest_langasync.reporting.markdown import markdown

            return markdown(run)
        told = self._with_bodies(run)
        if name.endswith(".json"):
            return told.text()
        from pytest_langasync.reporting.html import html_page

        return html_page(told, history=list(self._history())[::-1])

    def _history(self) -> Iterator[RunFigures]:
        earlier = (run for run in self._runs() if run.name != self.name)
        return islice(map(figures, earlier), CHARTED)

    def _with_bodies(self, run: RunReport) -> RunReport:
        """Add what was asked and answered, from the cache."""

        def request_body(key: str) -> Any:
            body = self.store.request_body(key)
            return None if redaction.is_digests(body) else body

        def answer_body(key: str) -> Any:
            answer = self.store.answer(key)
            return answer.body if answer else None

        return run.with_bodies(request_body, answer_body)

    def _append(self, path: Path, run: RunReport) -> None:
        from pytest_langasync.reporting.markdown import markdown

        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(markdown(run))
        except OSError as error:
            self.reporter.trouble(f"{STEP_SUMMARY}: {error}")
