"""Buying what parked tests miss: which lane each call goes by, and the wait within its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_langasync.exceptions import ConfigurationError
from pytest_langasync.interception.wire import Fail
from pytest_langasync.lanes.direct import NoFlexError, Outcome
from pytest_langasync.models import Event, JobState, MissingCall

if TYPE_CHECKING:
    from pytest_langasync.config import Stage
    from pytest_langasync.costs.prices import Estimate
    from pytest_langasync.engine.run import Run

__all__ = ["Buyer", "LaneBuyer", "WaveResult"]

CANCELLING = 900.0
"""Seconds to wait for cancelled jobs to end; OpenAI's guide speaks of up to ten minutes."""
CANCELLED = "cancelled when the time was up; the next run buys it again"
NO_ROOM = "there was no room in the flex tier before the time was up"


@dataclass(frozen=True)
class WaveResult:
    """What a round brought, beside the answers in the store."""

    everybody: bool = False
    """Whether all parked tests may run again, not only those whose calls are answered."""
    over: bool = False
    """Whether this was the last round."""
    why: str = ""
    """What stands in the way, where something does."""
    stopped: bool = False
    """Whether the run was told to stop: what is parked is left alone."""
    urgent: Sequence[str] = ()
    """Keys of missing calls that their tests are to send themselves, in place: nobody else can."""
    cancelled_at: float = 0.0
    """When jobs were cancelled, in seconds since the epoch; 0 where none was."""
    failed: Mapping[str, Fail] = field(default_factory=dict)
    """What the network failed with, by the keys of calls that were sent by themselves."""


class Buyer(Protocol):
    """Where parked tests get their answers: from this process, or through the one that leads."""

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Send what is missing and wait for it. Raises what ``Run.wave`` does."""
        ...


class LaneBuyer:
    """Buys for this process. The time of the first lane begins with the first round.

    ``estimated`` gets what each missing call would cost, where only that was asked for.
    """

    def __init__(
        self,
        run: Run,
        estimated: Callable[[list[tuple[MissingCall, Estimate]]], None],
    ) -> None:
        self._run = run
        self._settings = run.settings
        self._estimated = estimated
        self._stages = run.settings.stages
        self._stage = 0
        self._begun_at: float | None = None
        self._ends: float | None = None
        """When the time of this stage is up, as a reading of the run's timer; None: never."""
        self._cancelled_at = 0.0
        self._told: set[str] = set()
        self._failed: dict[str, Fail] = {}

    def buy(self, missing: Sequence[MissingCall]) -> WaveResult:
        """Send what is missing, or attach to where it is under way, and wait until the deadline.

        Raises:
            ConfigurationError, ProviderError, CacheError: as ``Run.wave`` does.
        """
        if self._settings.estimate:
            self._run.tell_request_changes(missing)
            self._estimated(list(self._run.budget.estimates(missing, likely=True)))
            return WaveResult(over=True)
        if self._begun_at is None:
            self._begun_at = self._run.context.timer()
            self._enter(0)
            if self._settings.resume and self._resume(missing):
                done = self._run.batcher.wait(self._settings.timeout)
                return WaveResult(everybody=done, over=not done)
        while True:
            result = self._round(missing)
            if result is not None:
                return result

    def _round(self, missing: Sequence[MissingCall]) -> WaveResult | None:
        """Buy once; None when all of it is to be tried by another lane."""
        if self._run.refused:
            raise ConfigurationError(self._run.refused)
        by_lane = self._by_lane(missing)
        batch = by_lane.pop("batch", [])
        if self._cancelled_at and self._settings.on_timeout == "cancel":
            return WaveResult(over=True, why=CANCELLED)
        known = len(self._run.refusals.all())
        if batch:
            self._run.wave(batch)
        urgent: list[str] = []
        sent = False
        for lane, calls in by_lane.items():
            able, unable = self._sendable(calls)
            urgent += [call.key for call in unable]
            if able:
                self._run.send(able, "flex" if lane == "flex" else "realtime", self._until(lane))
                sent = True
        if sent:
            return self._collect(urgent)
        if urgent:
            return WaveResult(urgent=urgent, cancelled_at=self._cancelled_at)
        result = self._wait_for_batches()
        # What batches turn out to refuse goes by another lane.
        return None if len(self._run.refusals.all()) > known else result

    # ---- stages

    @property
    def _current(self) -> Stage:
        return self._stages[self._stage]

    def _enter(self, stage: int) -> None:
        self._stage = stage
        seconds = self._current.seconds
        self._ends = None if seconds is None else self._run.context.timer() + seconds

    def _until(self, lane: str) -> float | None:
        if lane == self._current.lane:
            return self._ends
        if lane == "realtime":
            return None
        return (self._begun_at or 0.0) + self._settings.timeout

    def _next_stage(self) -> bool:
        """Go on to the next lane, where there is one."""
        if self._stage + 1 >= len(self._stages):
            return False
        self._enter(self._stage + 1)
        return True

    # ---- who goes by which lane

    def _by_lane(self, missing: Sequence[MissingCall]) -> dict[str, list[MissingCall]]:
        """Sort what is missing by the lane that it goes by now; what is answered is left out of
        all but batches, whose lane finds out by itself."""
        found: dict[str, list[MissingCall]] = {}
        run = self._run
        for call in missing:
            lane = self._lane(call)
            if lane == "batch" or not run.replay.can_go_on(call):
                found.setdefault(lane, []).append(call)
        unpaid = [call for call in found.get("batch", ()) if not run.paid_for(call)]
        if unpaid and len(unpaid) < self._settings.realtime_under:
            few = {call.key for call in unpaid}
            found["batch"] = [call for call in found["batch"] if call.key not in few]
            found["realtime"] = found.get("realtime", []) + unpaid
        return found

    def _lane(self, call: MissingCall) -> str:
        names = [stage.lane for stage in self._stages]
        lane = call.options.lane or self._current.lane
        if lane in names and names.index(lane) < self._stage:
            lane = self._current.lane
        if lane == "flex" and not self._run.has_flex(call):
            lane = self._after_flex()
            self._tell(f"{call.model} has no flex tier: its calls go by the lane {lane}")
        if lane == "batch" and not self._run.batchable(call):
            lane = "realtime"
        return lane

    def _after_flex(self) -> str:
        names = [stage.lane for stage in self._stages]
        later = names[names.index("flex") + 1 :] if "flex" in names else []
        return later[0] if later else "batch"

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._run.context.notify(Event("rerouted", message=message))

    # ---- sent by themselves

    def _sendable(
        self, calls: Iterable[MissingCall]
    ) -> tuple[list[MissingCall], list[MissingCall]]:
        """Return what is to be sent by us, and what only its test can send.

        What is under way in a batch, or may be, is left there, unless the run never waits for one:
        then it is said that it is paid twice.
        """
        run, calls = self._run, list(calls)
        waits = "batch" in [stage.lane for stage in self._stages]
        if waits or run.batches_in_doubt(calls):
            held = run.look_up(calls)
            if not waits:
                run.batcher.wait(0.0)
            calls = [one for one in calls if one.key not in held]
            calls = [one for one in calls if not run.replay.can_go_on(one)]
            under_way = [one for one in calls if run.store.in_flight(one.key)]
            if waits:
                calls = [one for one in calls if not run.store.in_flight(one.key)]
            elif under_way:
                jobs = {job.id for one in under_way if (job := run.store.in_flight(one.key))}
                self._tell(
                    f"{len(under_way):,} calls are under way in {' and '.join(sorted(jobs))}, too, "
                    "and are paid there as well"
                )
        able = [one for one in calls if one.outgoing is not None]
        return able, [one for one in calls if one.outgoing is None]

    def _collect(self, urgent: Sequence[str]) -> WaveResult | None:
        """Wait for what was sent by itself."""
        brought, late, fault = False, False, None
        while (outcome := self._run.direct.wait()) is not None:
            late = late or outcome.late
            brought = self._take(outcome) or brought
            fault = fault or outcome.fault
        if fault is not None:
            raise fault
        if late and not self._next_stage() and not brought:
            return WaveResult(urgent=urgent, why=NO_ROOM)
        if brought or urgent:
            return WaveResult(urgent=urgent, cancelled_at=self._cancelled_at, failed=self._failed)
        return None

    def _take(self, outcome: Outcome) -> bool:
        """Note what became of a call; return whether its test can go on with it."""
        if isinstance(outcome.error, NoFlexError):
            self._run.has_no_flex(outcome.call)
            return False
        if outcome.error is not None:
            failed = Fail(type(outcome.error).__name__, str(outcome.error))
            self._failed[outcome.call.key] = self._run.replay.failed[outcome.call.key] = failed
        return not outcome.late and outcome.fault is None

    # ---- batches

    def _wait_for_batches(self) -> WaveResult | None:
        """Wait until the time of the lane is up; then cancel, where another one follows."""
        run, settings = self._run, self._settings
        until = self._until("batch")
        left = None if until is None else max(0.0, until - run.context.timer())
        done = run.batcher.wait(left)
        follows = self._current.lane == "batch" and self._stage + 1 < len(self._stages)
        if done or self._cancelled_at or not self._current.seconds:
            return WaveResult()
        if not follows and settings.on_timeout != "cancel":
            return WaveResult()
        run.batcher.cancel_all()
        run.batcher.wait(CANCELLING)
        self._cancelled_at = run.context.clock()
        run.replay.cancelled(self._cancelled_at)
        if settings.on_timeout == "cancel":
            return WaveResult(cancelled_at=self._cancelled_at, why=CANCELLED)
        self._next_stage()
        return None

    def _resume(self, missing: Sequence[MissingCall]) -> bool:
        """Attach to the jobs that the person named; True when the cache did not know them all."""
        store, new = self._run.store, False
        for job_id in self._settings.resumed or self._last():
            known = store.job(job_id)
            new = new or known is None
            if known is None or known.state is JobState.RUNNING:
                try:
                    self._run.attach(job_id, missing)
                except ConfigurationError as error:
                    raise ConfigurationError(f"--langasync-resume: {error}") from None
        return new

    def _last(self) -> tuple[str]:
        jobs = self._run.store.jobs()
        if not jobs:
            raise ConfigurationError(
                f"--langasync-resume=last: there is no job in {self._settings.cache}; "
                "give the job's ID instead"
            )
        return (jobs[-1].id,)
