"""One input of a Runnable, run as an attempt: on stored answers, on recorded ones, or in real time.

The counterpart of the pytest session for ``wrap_chain``. pytest is not involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pytest_langasync.cache import redaction
from pytest_langasync.cache.chain_jobs import JobRecord
from pytest_langasync.chains.invoke import Invoker
from pytest_langasync.config import Settings, suite_of
from pytest_langasync.engine import differences
from pytest_langasync.engine.replay import Attempt, ReplayRules
from pytest_langasync.engine.run import Front, Run
from pytest_langasync.exceptions import ConfigurationError, NotReproducibleError
from pytest_langasync.interception.event_loop import finish
from pytest_langasync.models import AttemptOptions, Event, MissingCall, Request, digest

__all__ = ["JobCounts", "Listener", "Outcome", "Runner", "input_names", "suite_name"]

_PASS = threading.Lock()
"""Patches are made for the whole process: one pass at a time."""

_REMEDY = (
    "the chain is not reproducible: for the same input it asked for something else than before. "
    "It runs once more for every wave, and must ask the same each time. Seed what is random, sort "
    "what is unordered, freeze the clock; give it a new memory or checkpointer each time, none "
    "that remembers the run before; or call it in real time. Nothing more is bought for this "
    "input. The difference:\n"
)


@dataclass(frozen=True)
class Listener:
    """Who is told of a job's events, and before each pause; and who may answer for its sandbox."""

    notify: Callable[[Event], None] = lambda event: None
    tick: Callable[[], None] = lambda: None
    sandbox_reply: Callable[[Any], Any] | None = None


class Parked(BaseException):
    """A call has no answer yet. No ``Exception``, so that a chain's own handlers let it pass."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input: a value, an error, or the calls that it waits for."""

    value: Any = None
    error: Exception | None = None
    missing: tuple[MissingCall, ...] = ()
    parked: bool = False
    refused: bool = False
    """Whether a provider's answer to one of its calls was an error."""


@dataclass(frozen=True)
class JobCounts:
    """How far a job is known to be."""

    inputs: int
    done: int
    """Inputs with a result or a final error."""
    failed: int
    """Inputs with a final error."""
    requests: int = 0
    """Requests in the provider's jobs that run now."""
    answered: int = 0
    """How many of these the provider says are answered."""


def input_names(inputs: Sequence[Any], fallback: str) -> list[str]:
    """Name each input by its content, so that the same input finds the same answers again.

    The second of two equal inputs gets a name, and so a sample, of its own. An input that is no
    data is named by its place, after ``fallback``.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    seen: Counter[str] = Counter()
    names = []
    for index, value in enumerate(inputs):
        try:
            if isinstance(value, Iterator):
                raise TypeError("to read it would use it up")
            name = digest(to_jsonable_python(value))
        except (PydanticSerializationError, ValueError, TypeError):
            names.append(f"{fallback}[{index}]")
            continue
        seen[name] += 1
        names.append(f"input:{name}" + (f"#{seen[name]}" if seen[name] > 1 else ""))
    return names


def suite_name(settings: Settings) -> str:
    """Name the suite at its providers: a cache of one's own is a suite of one's own.

    So a fresh ``cache_dir`` buys anew, and is not served what was bought for another one.
    """
    suite, usual = (
        suite_of(settings.rootdir),
        settings.rootdir / Settings(settings.rootdir).cache_dir,
    )
    if settings.cache.resolve() in (usual.resolve(), (usual / "sandbox").resolve()):
        return suite
    return f"{suite}-{digest(str(settings.cache.resolve()))[:12]}"


class Runner:
    """Runs a chain as attempts of one run, each input of a job being an owner of its own.

    ``open`` it before anything else; what was closed may be opened again.
    """

    def __init__(
        self, chain: Invoker, inputs: Sequence[Any], record: JobRecord, settings: Settings,
        listener: Listener,
    ) -> None:  # fmt: skip
        self._chain = chain
        self.owners = [f"{record.id}[{index}]" for index in range(len(inputs))]
        self._names = dict(zip(self.owners, input_names(inputs, record.id), strict=True))
        self._numbers: Counter[str] = Counter()
        self._notify, self._told = listener.notify, set[str]()
        front = Front(
            parked_type=Parked,
            notify=listener.notify,
            tick=listener.tick,
            # What was bought since then was bought for this job.
            started_at=record.created_at,
            sandbox_reply=listener.sandbox_reply,
            suite=suite_name(settings),
            option=lambda name: name,
            allow=self._allow,
        )
        self.run = Run(settings, front)

    def open(self, record: JobRecord) -> None:
        """Open the cache for what the record says now. Raises as ``Run.open`` does."""
        since, retried_at = record.created_at, record.retried_at
        renewed = {self.owners[place]: moment for place, moment in record.renewed}
        rules = ReplayRules(
            not_before=since if record.refresh else 0.0,
            renewed=lambda owner: renewed.get(owner, 0.0),
            errors_not_before=since if retried_at is None else retried_at,
            key_owner=lambda owner: self._names.get(owner, owner),
        )
        self.run.open(rules)

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Catch the calls of attempts inside the block.

        Raises:
            ConfigurationError: inside a test or chain whose calls are being caught already.
        """
        if self.run.concurrency.current() is not None:
            raise ConfigurationError(
                "a batch job cannot be run inside a test or chain that is itself being batched: "
                "call the chain directly there, and its calls join the batch"
            )
        with _PASS:
            self.run.patch()
            try:
                yield
            finally:
                self.run.unpatch()
                self.run.memory.save(goes_on=False)

    def attempt(self, index: int, value: Any, config: Any, options: AttemptOptions) -> Outcome:
        """Run one input; call it inside ``catching``."""
        result, error = None, None
        with self._attempting(index, options) as attempt:
            try:
                with self.run.concurrency.interruptible(attempt):
                    result = self._chain.invoke(value, config, attempt=attempt)
            except BaseException as exception:
                error = _kept(exception, attempt)
        return self._conclude(attempt, result, error)

    async def aattempt(
        self, index: int, value: Any, config: Any, options: AttemptOptions
    ) -> Outcome:
        """``attempt`` in the running event loop."""
        result, error = None, None
        with self._attempting(index, options) as attempt:
            try:
                result = await self._chain.ainvoke(value, config)
            except BaseException as exception:
                error = _kept(exception, attempt)
        return self._conclude(attempt, result, error)

    def _attempting(
        self, index: int, options: AttemptOptions
    ) -> contextlib.AbstractContextManager[Attempt]:
        owner = self.owners[index]
        self._numbers[owner] += 1
        number = self._numbers[owner]
        return self.run.attempt(owner, number, options, traced=not options.realtime)

    def _conclude(self, attempt: Attempt, result: Any, error: Exception | None) -> Outcome:
        if not attempt.parked:
            self.run.judge(attempt)
            refused = any(not answer.ok for _, _, answer in attempt.used)
            return Outcome(result, error, refused=refused)
        difference = attempt.difference()
        if difference is not None:
            self.run.give_up(attempt)
            return Outcome(error=_not_reproducible(difference.stored, difference.asked))
        self.run.park(attempt)
        return Outcome(missing=tuple(attempt.missing.values()), parked=True)

    def _allow(self, key: str, request: Request) -> None:
        """Let a call go out in real time; one that nobody asked to is told before it is sent."""
        self.run.budget.check_now(key, request)
        caller = self.run.concurrency.current()
        place = urlsplit(request.target.base_url).netloc
        if caller is None or caller.attempt.options.realtime or place in self._told:
            return
        self._told.add(place)
        text = f"{place}: no batch takes such calls: they are sent in real time, at list price"
        self._notify(Event("trouble", message=text))
        warnings.warn(text, stacklevel=2)

    def changed(self, index: int, outcome: Outcome, jobs: Sequence[str]) -> str:
        """Say how a parked input asks for something else than was bought for it, or nothing.

        Args:
            jobs: the provider's jobs that its first calls were sent with.
        """
        owner, store = self.owners[index], self.run.store
        bought = [one for job in jobs for one in store.requests_in(job) if one.owner == owner]
        keys = {one.key for one in bought}
        if not bought or any(p.key in keys or self.run.paid_for(p) for p in outcome.missing):
            return ""
        asked = store.spooled(outcome.missing[0].key)
        bodies = [body for one in bought if (body := one.body()) and not redaction.is_digests(body)]
        if any(redaction.identifier_changes(body, asked) is not None for body in bodies):
            return ""
        nearest = differences.nearest(asked, bodies) if bodies else None
        if nearest is None:
            return "its first request (its text is not stored)"
        return differences.difference(bodies[nearest], asked)

    def check(self, index: int, value: Any, config: Any, first: Outcome) -> None:
        """Run a parked input once more, before anything is bought for it.

        Raises:
            NotReproducibleError: it asks for something else than the first time.
        """
        again = self.attempt(index, value, config, AttemptOptions())
        before = {p.key: self.run.store.spooled(p.key) for p in first.missing}
        after = {p.key: self.run.store.spooled(p.key) for p in again.missing}
        left = [body for key, body in before.items() if key not in after]
        for asked in (body for key, body in after.items() if key not in before):
            twin = next(
                (b for b in left if redaction.identifier_changes(b, asked) is not None), None
            )
            if twin is not None:
                left.remove(twin)
            elif left:
                raise _not_reproducible(left[0], asked)

    def now(
        self, indices: Sequence[int], inputs: Sequence[Any], configs: Sequence[Any]
    ) -> dict[int, Outcome]:
        """Run these inputs in real time, as many at once as the config's ``max_concurrency``."""
        options = AttemptOptions(realtime=True)
        limit = (configs[indices[0]] or {}).get("max_concurrency")
        with self.catching():
            if self._chain.asynchronous:
                outcomes = finish(self._gather(indices, inputs, configs, options, limit))
            else:
                contexts = [contextvars.copy_context() for _ in indices]

                def one(index: int, context: contextvars.Context) -> Outcome:
                    return context.run(self.attempt, index, inputs[index], configs[index], options)

                with ThreadPoolExecutor(limit) as pool:
                    outcomes = list(pool.map(one, indices, contexts))
        return dict(zip(indices, outcomes, strict=True))

    async def _gather(
        self,
        indices: Sequence[int],
        inputs: Sequence[Any],
        configs: Sequence[Any],
        options: AttemptOptions,
        limit: int | None,
    ) -> list[Outcome]:
        room = asyncio.Semaphore(limit or len(indices))

        async def one(index: int) -> Outcome:
            async with room:
                return await self.aattempt(index, inputs[index], configs[index], options)

        return list(await asyncio.gather(*map(one, indices)))

    def close(self) -> None:
        """Release connections; jobs go on at the provider."""
        self.run.close()


def _kept(exception: BaseException, attempt: Attempt) -> Exception | None:
    """Return the error that an attempt ended with; what is no error of the chain's goes on."""
    if isinstance(exception, Exception):
        return exception
    if isinstance(exception, KeyboardInterrupt) or not attempt.parked:
        raise exception
    return None


def _not_reproducible(stored: Any, asked: Any) -> NotReproducibleError:
    return NotReproducibleError(_REMEDY + differences.difference(stored, asked))
