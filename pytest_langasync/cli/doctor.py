"""``doctor``: look at the cache, the keys, and what is under way at the providers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from pytest_langasync import providers
from pytest_langasync.cli.context import Cli
from pytest_langasync.config import CLOCK, suite_of
from pytest_langasync.exceptions import ConfigurationError, LangasyncError
from pytest_langasync.models import Job, JobState
from pytest_langasync.reporting.text import duration as spell

__all__ = ["doctor"]

MONTH = 30 * 24 * 3600.0


def doctor(cli: Cli, options: argparse.Namespace) -> int:
    """Check everything; with ``--forget``, give up a submission in doubt, or forget that the
    batches of a model were refused."""
    if options.forget:
        return _forget(cli, options.forget)
    jobs = cli.store.jobs()
    running = [job for job in jobs if job.state is JobState.RUNNING]
    cli.write(f"cache: {cli.store.root.resolve()}, {len(jobs)} jobs, {len(running)} running")
    trouble = [*_damage(cli), *_in_doubt(cli), *_ask_about(cli, running)]
    trouble += _orphans(cli, jobs)
    for one in cli.store.refusals.read():
        cli.write(
            f"in real time: {one.model} at {one.base_url}{one.endpoint}, since {one.why}; "
            f"to try a batch again: doctor --forget {one.model}"
        )
    for provider in providers.providers():
        found = "key set" if provider.key() else "no key in the environment"
        cli.write(f"{provider.name}: {found}")
    for line in trouble:
        cli.write(line)
    cli.write("something needs you: see above" if trouble else "all is well")
    return 1 if trouble else 0


def _damage(cli: Cli) -> list[str]:
    """Read every file, and tell of those that are damaged."""
    cli.store.request("")  # reads all requests
    cli.store.owners.read()
    list(cli.store.history)
    problems = [*cli.store.losses(), *cli.store.problems]
    return [f"damage: {problem}" for problem in problems]


def _in_doubt(cli: Cli) -> list[str]:
    """Tell of submissions that nobody works at; another process's own are none of them."""
    if not cli.store.intents.nonces():
        return []
    try:
        with cli.store.lock(_busy):
            intents = list(cli.store.intents)
    except _BusyError:
        cli.write("another process is submitting")
        return []
    return [
        f"in doubt: submission {intent.nonce} of {intent.count} requests to "
        f"{intent.meta.base_url}, {spell(CLOCK.now() - intent.created_at)} ago. The next "
        "run looks for it at the provider and buys nothing of it before; to give it up: "
        f"doctor --forget {intent.nonce}"
        for intent in intents
    ]


def _ask_about(cli: Cli, running: Iterable[Job]) -> Iterable[str]:
    for job in running:
        try:
            client = cli.client(job.provider, job.base_url, job.headers)
            try:
                status = client.status(job.id)
            finally:
                client.close()
        except LangasyncError as error:
            yield f"{job.id}: {error}"
        else:
            done = status.completed + status.failed
            cli.write(f"{job.id}: {status.word} {done}/{status.total or job.requests}")


def _orphans(cli: Cli, jobs: Sequence[Job]) -> Iterable[str]:
    """Tell of batches that this suite has at its providers and this cache does not know."""
    known, open_ = {job.id for job in jobs}, set(cli.store.intents.nonces())
    here = suite_of(cli.store.root.resolve().parent)
    suites = {here, *(job.suite for job in jobs)} - {""}
    for name, base_url in sorted({(job.provider, job.base_url) for job in jobs} | _usual()):
        try:
            if not providers.by_name(name).key():
                continue
            client = cli.client(name, base_url, ())
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


def _forget(cli: Cli, nonce: str) -> int:
    refusals = cli.store.refusals.read()
    kept = [one for one in refusals if one.model != nonce]
    if len(kept) < len(refusals):
        cli.store.refusals.write(kept)
        cli.write(f"forgotten: the next run tries a batch of {nonce} again")
        return 0
    if nonce not in cli.store.intents.nonces():
        raise ConfigurationError(_not_in_doubt(cli, nonce))
    with cli.store.lock(lambda: cli.write("another process is submitting: waiting for it")):
        # Only now is it sure that nobody is about to settle it.
        if nonce not in cli.store.intents.nonces():
            raise ConfigurationError(_not_in_doubt(cli, nonce))
        count = len(cli.store.intents.keys(nonce))
        cli.store.intents.drop(nonce)
    cli.write(f"forgotten: the {count} requests of {nonce} will be bought anew")
    return 0


def _not_in_doubt(cli: Cli, nonce: str) -> str:
    job = next((job for job in cli.store.jobs() if job.nonce == nonce), None)
    others = ", ".join(cli.store.intents.nonces())
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
