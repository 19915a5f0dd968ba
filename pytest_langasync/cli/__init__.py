"""Housekeeping: list and show jobs, cancel them, prune the cache, find out what is wrong.

Keys are read from the SDKs' environment variables, and only where a provider has to be asked.

* In: the command line of ``python -m pytest_langasync``.
* Out: lines of text, an exit status.
* May import: every room but ``plugin``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TextIO

from pytest_langasync import providers
from pytest_langasync.cache import redaction
from pytest_langasync.cache.store import Store
from pytest_langasync.config import CLOCK, duration, suite_of
from pytest_langasync.costs.prices import PriceBook
from pytest_langasync.exceptions import ConfigurationError, LangasyncError
from pytest_langasync.models import Credentials, Job, JobState, is_success
from pytest_langasync.reporting.text import duration as spell
from pytest_langasync.reporting.text import (
    escape,
    money,
    one_line,
    shorten,
)

__all__ = ["main"]

HOUR = 3600.0
MONTH = 30 * 24 * HOUR
COLUMNS = ("job", "age", "provider", "model", "status", "asked", "ok", "failed", "paid")


def main(arguments: Sequence[str], out: TextIO | None = None) -> int:
    """Run one command and return the exit status: 0, 1 where something needs a person, 2 for a
    mistake in the command."""
    options = parser().parse_args(arguments)
    house = Cli(Store(options.cache_dir), out or sys.stdout)
    try:
        house.store.open()
        command: Callable[[Cli, argparse.Namespace], int] = options.command
        return command(house, options)
    except LangasyncError as error:
        sys.stderr.write(f"langasync: {escape(str(error))}\n")
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m pytest_langasync", description=__doc__)
    top.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(".langasync"),
        help="the cache (default .langasync; the sandbox's is .langasync/sandbox)",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Cli, argparse.Namespace], int], text: str) -> None:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        if name in ("show", "cancel"):
            one.add_argument("job_id", help="the provider's ID: batch_…, msgbatch_…")
        if name == "prune":
            one.add_argument(
                "--older-than", required=True, metavar="DURATION", help="such as 30d or 12h"
            )
        if name == "doctor":
            one.add_argument(
                "--forget",
                metavar="NONCE|MODEL",
                help="give up a submission in doubt (what it may have bought is then lost), or try "
                "batches of a model again that were refused",
            )

    add("jobs", Cli.jobs, "list the jobs in the cache")
    add("show", Cli.show, "show a job's requests and answers")
    add("cancel", Cli.cancel, "ask the provider to cancel a job")
    add(
        "prune",
        Cli.prune,
        "remove old answers, of ended jobs and in real time, and accounts of runs",
    )
    add("doctor", Cli.doctor, "check the cache, the keys and what is under way")
    return top


@dataclass
class Cli:
    """The commands. Each returns the exit status."""

    store: Store
    out: TextIO

    def write(self, line: str = "") -> None:
        """Write a line; nothing in it controls the terminal."""
        self.out.write(escape(line) + "\n")

    def jobs(self, options: argparse.Namespace) -> int:
        """List jobs, oldest first."""
        rows = [COLUMNS, *(self._row(job) for job in self.store.jobs())]
        if len(rows) == 1:
            self.write(f"no jobs in {self.store.root}")
            return 0
        widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
        for row in rows:
            cells = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
            self.write("  ".join(cells).rstrip())
        running = [job.id for job in self.store.jobs() if job.state is JobState.RUNNING]
        if running:
            self.write()
            self.write(
                f"{len(running)} still running: the command that submitted them collects them, or "
                f"pytest --langasync-resume={running[-1]}"
            )
        return 0

    def _row(self, job: Job) -> tuple[str, ...]:
        done = self.store.outcome(job.id) if job.state is not JobState.RUNNING else None
        paid, unknown = self._paid(job)
        cost = money(paid) + (f" + {unknown} unknown" if unknown else "")
        return (
            job.id,
            spell(max(0.0, CLOCK.now() - job.created_at)),
            job.provider,
            one_line(job.model or "several"),
            one_line(job.word),
            str(job.requests),
            str(done.ok) if done else "",
            str(done.failed) if done else "",
            cost if done else "",
        )

    def _paid(self, job: Job) -> tuple[Decimal, int]:
        """Return what a job's answers cost in USD, and how many have no known price."""
        prices, paid, unknown = PriceBook(), Decimal(0), 0
        models = {r.custom_id: r.meta.model for r in self.store.requests_in(job.id)}
        for custom_id, status, body in self.store.answers_in(job.id):
            model = models.get(custom_id, job.model)
            if is_success(status):
                cost = prices.cost(job.provider, job.endpoint, model, body, at=job.created_at)
                paid += cost.batch_price or Decimal(0)
                unknown += cost.batch_price is None
        return paid, unknown

    def _known(self, job_id: str) -> Job:
        job = self.store.job(job_id)
        if job is None:
            raise ConfigurationError(
                f"there is no job {job_id!r} in {self.store.root}: `jobs` lists those there are"
            )
        return job

    def show(self, options: argparse.Namespace) -> int:
        """Show a job and what was asked and answered in it."""
        job = self._known(options.job_id)
        cells = zip(COLUMNS, self._row(job), strict=True)
        self.write(", ".join(f"{name} {cell}" for name, cell in cells if cell))
        self.write(f"at {job.base_url}{job.endpoint}" + (f": {job.reason}" if job.reason else ""))
        dialect = providers.dialect_of(job)
        for request in self.store.requests_in(job.id):
            answer = self.store.answer(request.key)
            body = request.body()
            stored = isinstance(body, dict) and not redaction.is_digests(body)
            asked = one_line(dialect.last_text(body)) if stored else "(not stored)"
            self.write(f"{request.owner}")
            self.write(f"    asked     {shorten(asked, 100)}")
            if answer is not None and answer.job_id == job.id:
                text = shorten(one_line(dialect.answer_text(answer.body)), 100)
                self.write(f"    answered  {'' if answer.ok else f'({answer.status}) '}{text}")
            else:
                self.write("    no answer from this job")
        return 0

    def cancel(self, options: argparse.Namespace) -> int:
        """Ask for cancellation; the next run collects what was done by then."""
        job = self._known(options.job_id)
        if job.state is not JobState.RUNNING:
            self.write(f"{job.id} has ended already ({job.word})")
            return 0
        client = self._client(job.provider, job.base_url, job.headers)
        try:
            client.cancel(job.id)
        finally:
            client.close()
        self.write(f"{job.id} is being cancelled; the next run collects what was done by then")
        return 0

    def _client(
        self, provider: str, base_url: str, headers: tuple[tuple[str, str], ...]
    ) -> providers.Client:
        """Return a client that asks with the key of the environment.

        What is read from the cache may be a stranger's: the key goes nowhere else than the SDK
        would send it by itself, or the provider's own hosts.
        """
        one = providers.by_name(provider)
        if base_url != one.usual_base_url().rstrip("/") and not one.is_official(base_url):
            raise ConfigurationError(
                f"the key of {provider} is not sent to {base_url}, which only the cache names. "
                "Set the base URL in the environment as for the SDK, if it is yours"
            )
        key = one.key()
        if not key:
            variable = next(iter(one.key_variables), "its key")
            raise ConfigurationError(f"{provider} has to be asked: set {variable}")
        return one.client(
            base_url, Credentials(one.key_headers(key)), one.identity_headers(dict(headers))
        )

    def prune(self, options: argparse.Namespace) -> int:
        """Remove what ended long ago."""
        limit = CLOCK.now() - duration(options.older_than)
        old = [job for job in self.store.jobs() if job.created_at < limit]
        ended = [job for job in old if job.state is not JobState.RUNNING]
        for job in ended:
            self.store.forget_job(job.id)
        answers = self.store.forget_realtime(limit)
        with self.store.lock():  # a text is written shortly before the request that has it
            self.store.forget_texts(min(limit, CLOCK.now() - HOUR))
        runs = self.store.history.forget(limit)
        self.write(
            f"removed {len(ended)} jobs and their answers, {answers} answers obtained at list "
            f"price, and {runs} accounts of runs"
        )
        if len(ended) < len(old):
            self.write(f"kept {len(old) - len(ended)} that still run")
        return 0

    def doctor(self, options: argparse.Namespace) -> int:
        """Check everything; with ``--forget``, give up a submission in doubt, or forget that the
        batches of a model were refused."""
        if options.forget:
            return self._forget(options.forget)
        jobs = self.store.jobs()
        running = [job for job in jobs if job.state is JobState.RUNNING]
        self.write(f"cache: {self.store.root.resolve()}, {len(jobs)} jobs, {len(running)} running")
        trouble = [*self._damage(), *self._in_doubt(), *self._ask_about(running)]
        trouble += self._orphans(jobs)
        for one in self.store.refusals.read():
            self.write(
                f"in real time: {one.model} at {one.base_url}{one.endpoint}, since {one.why}; "
                f"to try a batch again: doctor --forget {one.model}"
            )
        for provider in providers.providers():
            found = "key set" if provider.key() else "no key in the environment"
            self.write(f"{provider.name}: {found}")
        for line in trouble:
            self.write(line)
        self.write("something needs you: see above" if trouble else "all is well")
        return 1 if trouble else 0

    def _damage(self) -> list[str]:
        """Read every file, and tell of those that are damaged."""
        self.store.request("")  # reads all requests
        self.store.owners.read()
        list(self.store.history)
        problems = [*self.store.losses(), *self.store.problems]
        return [f"damage: {problem}" for problem in problems]

    def _in_doubt(self) -> list[str]:
        """Tell of submissions that nobody works at; another process's own are none of them."""
        if not self.store.intents.nonces():
            return []
        try:
            with self.store.lock(_busy):
                intents = list(self.store.intents)
        except _BusyError:
            self.write("another process is submitting")
            return []
        return [
            f"in doubt: submission {intent.nonce} of {intent.count} requests to "
            f"{intent.meta.base_url}, {spell(CLOCK.now() - intent.created_at)} ago. The next "
            "run looks for it at the provider and buys nothing of it before; to give it up: "
            f"doctor --forget {intent.nonce}"
            for intent in intents
        ]

    def _ask_about(self, running: Iterable[Job]) -> Iterable[str]:
        for job in running:
            try:
                client = self._client(job.provider, job.base_url, job.headers)
                try:
                    status = client.status(job.id)
                finally:
                    client.close()
            except LangasyncError as error:
                yield f"{job.id}: {error}"
            else:
                done = status.completed + status.failed
                self.write(f"{job.id}: {status.word} {done}/{status.total or job.requests}")

    def _orphans(self, jobs: Sequence[Job]) -> Iterable[str]:
        """Tell of batches that this suite has at its providers and this cache does not know."""
        known, open_ = {job.id for job in jobs}, set(self.store.intents.nonces())
        here = suite_of(self.store.root.resolve().parent)
        suites = {here, *(job.suite for job in jobs)} - {""}
        for name, base_url in sorted({(job.provider, job.base_url) for job in jobs} | _usual()):
            try:
                if not providers.by_name(name).key():
                    continue
                client = self._client(name, base_url, ())
            except ConfigurationError as error:
                yield f"{name}: {error}"
                continue
            try:
                there = client.find(CLOCK.now() - MONTH) if client.has_batch_api() else ()
                for found in there:
                    ours = found.suite in suites and found.nonce not in open_
                    if ours and found.job_id not in known:
                        yield (
                            f"orphan: {found.job_id} ({found.total} requests) at {base_url} is of "
                            f"this suite and not in this cache: pytest --langasync-resume="
                            f"{found.job_id} takes it in"
                        )
            except LangasyncError as error:
                yield f"{name}: {error}"
            finally:
                client.close()

    def _forget(self, nonce: str) -> int:
        refusals = self.store.refusals.read()
        kept = [one for one in refusals if one.model != nonce]
        if len(kept) < len(refusals):
            self.store.refusals.write(kept)
            self.write(f"forgotten: the next run tries a batch of {nonce} again")
            return 0
        if nonce not in self.store.intents.nonces():
            raise ConfigurationError(self._not_in_doubt(nonce))
        with self.store.lock(lambda: self.write("another process is submitting: waiting for it")):
            # Only now is it sure that nobody is about to settle it.
            if nonce not in self.store.intents.nonces():
                raise ConfigurationError(self._not_in_doubt(nonce))
            count = len(self.store.intents.keys(nonce))
            self.store.intents.drop(nonce)
        self.write(f"forgotten: the {count} requests of {nonce} will be bought anew")
        return 0

    def _not_in_doubt(self, nonce: str) -> str:
        job = next((job for job in self.store.jobs() if job.nonce == nonce), None)
        others = ", ".join(self.store.intents.nonces())
        return (
            f"no submission {nonce!r} is in doubt"
            + (f": it is the job {job.id}" if job else "")
            + (f"; those in doubt are {others}" if others else "")
        )


class _BusyError(Exception):
    """Another process holds the lock of the cache."""


def _busy() -> None:
    raise _BusyError


def _usual() -> set[tuple[str, str]]:
    """Return where the SDKs send to by default: (provider, base URL)."""
    return {(one.name, one.usual_base_url()) for one in providers.providers() if one.base_url}
