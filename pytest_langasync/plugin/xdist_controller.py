"""A run of pytest-xdist, seen from the process that leads it: its workers' calls are bought here.

The leading process collects and runs no test. It keeps the cost guard, the sandbox, the progress
display and the jobs; workers park, wait and replay.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from pytest_langasync.config import Settings
from pytest_langasync.engine.buyer import LaneBuyer, WaveResult
from pytest_langasync.engine.run import Front, Run
from pytest_langasync.exceptions import (
    CacheError,
    ConfigurationError,
    LangasyncError,
    ProviderError,
)
from pytest_langasync.models import MissingCall
from pytest_langasync.plugin.interrupts import PatientInterrupts
from pytest_langasync.plugin.parked_fixtures import Parked
from pytest_langasync.plugin.terminal import Reporter
from pytest_langasync.plugin.xdist_link import Controller, WorkerState
from pytest_langasync.plugin.xdist_messages import WORKERINPUT, WaveReply

__all__ = ["ControllerSession"]

SUBMISSION = 5.0
"""Seconds for which Ctrl-C waits for a submission under way, so that its job can be named."""


class ControllerSession:
    """The plugin object of the leading process of an active distributed run."""

    def __init__(self, config: pytest.Config, settings: Settings, reporter: Reporter) -> None:
        self.config = config
        self.reporter = reporter
        front = Front(
            parked_type=Parked,
            notify=reporter.event,
            tick=self._tick,
            started_at=reporter.started_at,
            sandbox_reply=lambda request: config.hook.pytest_langasync_sandbox_reply(
                request=request
            ),
        )
        self._interrupts = PatientInterrupts()
        self.run = Run(settings, front)
        reporter.follow(self.run)
        self.buyer = LaneBuyer(self.run, reporter.estimated)
        self.controller: Controller | None = None
        self._refused = ""
        self._submitted = threading.Event()
        self._submitted.set()
        self._ended_workers: set[str] = set()

    # ---- the session

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        try:
            self.run.open()
        except (ConfigurationError, CacheError) as error:
            raise pytest.UsageError(str(error)) from None
        maxfail = self.config.option.maxfail or 0
        self.controller = Controller(
            self.run.store, self._buy, self.run.budget.check_now, maxfail=maxfail
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        self._interrupts.install()
        try:
            result = yield
        except pytest.exit.Exception:
            raise
        except KeyboardInterrupt as error:
            if type(error) is KeyboardInterrupt:  # pytest's own way to stop is derived from it
                self._submitted.wait(SUBMISSION)
                self.reporter.interrupted(self.run.batcher.running)
            raise
        finally:
            if self.controller is not None:
                self.controller.stop()
        if self.controller is not None and self.controller.error is not None:
            raise self.controller.error
        if self._refused:
            raise pytest.UsageError(self._refused)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self.controller is None:
            return
        self.controller.close()
        for name in self.controller.names:
            self._worker_ended(name)
        self.reporter.finish()

    def pytest_unconfigure(self) -> None:
        self.run.close()
        self._interrupts.uninstall()

    def pytest_internalerror(self) -> None:
        self.reporter.worker_lost()

    # ---- workers come and go

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker whom to call."""
        assert self.controller is not None
        invitation = self.controller.invite(
            node.gateway.id,
            started_at=self.reporter.started_at,
            sandbox=self.run.hosts.local_url,
        )
        node.workerinput[WORKERINPUT] = invitation.model_dump()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take over a worker's books; tests that died with it are reported by this process."""
        worker = self._worker_ended(node.gateway.id)
        if worker is not None and worker.books is None:
            self.reporter.worker_lost()
            self._report_lost_tests(node, worker)
        elif error:
            self.reporter.worker_lost()

    def _worker_ended(self, name: str) -> WorkerState | None:
        if self.controller is None or name in self._ended_workers:
            return None
        self._ended_workers.add(name)
        worker = self.controller.worker_ended(name)
        if worker is not None and worker.books is not None:
            self.reporter.absorb(worker.books)
        return worker

    def _report_lost_tests(self, node: Any, worker: WorkerState) -> None:
        judged = self.reporter.verdicts.keys() | self.reporter.deferred.keys()
        for nodeid in sorted(worker.parked - judged):
            path = nodeid.split("::")[0]
            report = pytest.TestReport(
                nodeid=nodeid, location=(path, None, path), keywords={}, outcome="failed",
                longrepr=f"worker {worker.name!r} crashed while running {nodeid!r}", when="call",
            )  # fmt: skip
            if nodeid != worker.running:
                reason = f"worker {worker.name!r} crashed while this test waited"
                report.outcome, report.longrepr = "skipped", (path, 0, f"Skipped: {reason}")
                vars(report)["langasync_deferred"] = reason
            vars(report)["node"] = node
            self.config.hook.pytest_runtest_logreport(report=report)

    # ---- in the controller's thread

    def _tick(self) -> None:
        self._submitted.set()
        if self.controller is not None and self.controller.ended:
            raise _EndedError
        self.reporter.tick()

    def _buy(self, missing: Sequence[MissingCall], refused: str) -> WaveReply:
        bought = WaveResult(over=True)
        self._submitted.clear()
        try:
            if refused:
                raise ConfigurationError(refused)
            bought = self.buyer.buy(missing)
        except ConfigurationError as error:
            self._refused = str(error)
            bought = WaveResult(over=True, why=str(error))
        except (ProviderError, CacheError) as error:
            self.reporter.trouble(str(error))
        except _EndedError:
            bought = WaveResult(over=True, stopped=True)
        finally:
            self._submitted.set()
            self.reporter.pause()
        return WaveReply(result=bought, refusals=self.run.refusals.all())


class _EndedError(LangasyncError):
    """The run ends while the controller waits for answers."""
