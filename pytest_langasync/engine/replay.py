"""Attempts: what a test asks, what is answered from the store, what is missing.

Knows neither pytest nor a provider nor HTTP. An attempt is one execution of one owner (a test, or a
Runnable's input); a replay holds what all attempts of a run share.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_langasync import identifiers
from pytest_langasync.cache import redaction
from pytest_langasync.cache.secret_places import with_secrets
from pytest_langasync.config import CLOCK
from pytest_langasync.engine import differences
from pytest_langasync.engine.kept import Kept, deletion_of, identifier, is_final
from pytest_langasync.interception.context import CallContext
from pytest_langasync.models import (
    ABOUT_THE_REQUEST,
    Answer,
    AttemptOptions,
    Call,
    MissingCall,
    Outgoing,
    Request,
    canonical_json,
    is_success,
)
from pytest_langasync.providers import dialect_of

if TYPE_CHECKING:
    from pytest_langasync.engine.memory import Memory
    from pytest_langasync.interception.wire import Fail
    from pytest_langasync.lanes import RunContext

__all__ = ["Attempt", "Difference", "Replay", "ReplayRules", "SendNow"]

DEFAULT = AttemptOptions()
PERMANENT = frozenset({400, 404, 409, 410, 413, 415, 422})
"""Statuses that say something about the call itself: it is not made again."""
_Slot = tuple[str, str]  # (owner, identity): what occurrences are counted by


@dataclass(frozen=True)
class SendNow:
    """A call to be sent in real time; ``record`` takes its status, body, request ID and headers."""

    call: Call
    record: Callable[[int, Any, str, Mapping[str, str]], Answer]


@dataclass(frozen=True)
class Difference:
    """A call that an attempt made in place of one that it had been given the answer to."""

    owner: str
    asked: Mapping[str, Any] = field(repr=False)
    stored: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ReplayRules:
    """Which stored answers count in a run, beside those of its settings. Times are seconds since
    the epoch."""

    not_before: float = 0.0
    """What was bought before that does not count."""
    renewed: Callable[[str], float] = lambda owner: 0.0
    """Returns the same moment for one owner alone."""
    errors_not_before: float = 0.0
    """Nor do errors that came before that."""
    key_owner: Callable[[str], str] | None = None
    """Returns the name with which an owner enters the keys of its answers; None leaves it to the
    setting for samples."""


class Replay:
    """What the attempts of one run share.

    ``may_send`` is asked before a call is sent in real time; one that may not is parked.
    """

    def __init__(
        self,
        context: RunContext,
        memory: Memory,
        rules: ReplayRules,
        may_send: Callable[[Call], bool],
    ) -> None:
        settings = context.settings
        self.store = context.store
        self.memory = memory
        self.may_send = may_send
        self.started_at = context.started_at
        self.silent = settings.silent
        """Whether nothing at all may be sent: offline, or for an estimate."""
        self.lane = settings.stages[0].lane
        """How calls get their answers, unless their test says otherwise."""
        self.failed: dict[str, Fail] = {}
        """What the network failed with, for calls that got no answer by themselves."""
        self._in_place = settings.concurrency == 1
        self._urgent: frozenset[str] = frozenset()
        self.match_tokens = settings.match_generated_ids
        """Whether an answer may serve a request that differs from its own only in generated
        identifiers."""
        self._shared = settings.samples == "shared"
        self._rules = rules
        self._retries_not_before = context.started_at
        """Failures for no fault of the request's that came before are no answers: whoever was to
        send it again did not get round to it."""
        self._refusals = context.refusals
        self.served: set[str] = set()
        """Keys of all answers that this run has used."""
        self.kept = Kept()

    def find(self, key: str, owner: str) -> Answer | None:
        """Return the stored answer that counts for this owner in this run, or None."""
        return self.store.answer(key) if self.has(key, owner) else None

    def has(self, key: str, owner: str) -> bool:
        """Whether a stored answer may still serve: it is not too old.

        An error that may pass by itself serves one verdict. One about the request is an answer like
        any other: a test that expects it is free when warm, and works offline.
        """
        entry = self.store.peek(key)
        if entry is None:
            return False
        if entry.age[0] < max(self._rules.not_before, self._rules.renewed(owner)):
            return False
        if not entry.ok and entry.received_at < self._rules.errors_not_before:
            return False
        batched = not entry.ok and bool(entry.file.job_id)
        if batched and self._refusals is not None and self._refusals.holds(key):
            return False  # what a batch alone refuses is no answer
        if entry.retryable and entry.received_at < self._retries_not_before:
            return False
        if entry.received_at < self.started_at:
            spent = self.memory.state(owner).errors_spent_at
            passing = not entry.ok and entry.status not in ABOUT_THE_REQUEST
            if passing and entry.received_at <= spent:
                return False
            if self.memory.refresh.too_old(owner, entry.age[0], entry.received_at):
                return False
        return entry.ok or self.store.in_flight(key) is None

    def cancelled(self, moment: float) -> None:
        """Note that what was cancelled before that moment (since the epoch) has no answer."""
        self._retries_not_before = max(self._retries_not_before, moment)

    def refused(self, request: Request) -> bool:
        """Whether no batch takes a request."""
        return self._refusals is not None and bool(self._refusals.of_request(request))

    def send_in_place(self) -> None:
        """Send the calls of the lane ``realtime`` as tests make them: somebody watches them."""
        self._in_place = True

    def is_direct(self, options: AttemptOptions) -> bool:
        """Whether the calls of an attempt are sent by themselves, not in batches."""
        return (options.lane or self.lane) != "batch"

    def send_in_place_now(self, keys: Iterable[str]) -> None:
        """Let tests send these missing calls themselves in the next pass: nobody else can."""
        self._urgent = frozenset(keys)

    def goes_in_place(self, call: Call, options: AttemptOptions, outgoing: Outgoing | None) -> bool:
        """Whether a call is sent as its test makes it, although a batch could take it."""
        if options.realtime or call.key in self._urgent:
            return True
        if self.is_direct(options):
            realtime = (options.lane or self.lane) == "realtime"
            return outgoing is None or (realtime and self._in_place)
        return outgoing is None and self.refused(call.request)

    def can_go_on(self, call: MissingCall) -> bool:
        """Whether an attempt that missed this call would get further now."""
        if self.has(call.key, call.owner) or call.key in self.failed or call.key in self._urgent:
            return True
        refusals = self._refusals
        return call.outgoing is None and refusals is not None and bool(refusals.of_missing(call))

    def key_owner(self, owner: str) -> str:
        """The owner as it enters the key of an answer."""
        if self._rules.key_owner is not None:
            return self._rules.key_owner(owner)
        return "" if self._shared else owner


class Attempt:
    """One execution of a test: asks, remembers what was asked, knows whether it was parked."""

    def __init__(
        self,
        replay: Replay,
        owner: str,
        number: int,
        options: AttemptOptions = DEFAULT,
    ) -> None:
        self.replay = replay
        self.owner = owner
        self.number = number
        self.options = options
        self.scope = owner
        """Who a call belongs to at this moment: the test, or the wide fixture being set up."""
        self.closed = False
        self.discarded = False
        """Whether something outside of it decided that it is not the real run."""
        self.parks = 0
        """How many calls were parked."""
        self.cut_short = False
        """Whether something of it was ended before it came to its own calls: see ``difference``."""
        self._claimed_new = False
        self.masked = 0
        self.missing: dict[str, MissingCall] = {}
        self.used: list[tuple[str, Call, Answer]] = []
        self.asked: set[str] = set()
        self._evidence: dict[str, str] = {}
        self._counts: Counter[_Slot] = Counter()
        self._errors: dict[_Slot, Call] = {}
        self._resend: defaultdict[_Slot, list[int]] = defaultdict(list)
        self.removed: set[str] = set()
        """Objects at the provider that it has deleted."""
        self._lock = threading.RLock()

    @property
    def parked(self) -> bool:
        """Whether this attempt cannot be the real run, whatever came out of it."""
        return self.parks > 0

    def wait_for(self, missing_calls: Iterable[MissingCall]) -> None:
        """Park this attempt because of calls that another one recorded, if of any."""
        with self._lock:
            self.parks += 1
            for pending in missing_calls:
                self.missing.setdefault(pending.key, pending)

    def restart(self) -> None:
        """Forget what was asked so far: somebody runs the test again inside this attempt."""
        with self._lock:
            self._counts.clear()
            self._errors.clear()
            self.used.clear()

    def ask(
        self,
        request: Request,
        caller: CallContext,
        *,
        streamed: bool = False,
        now: bool = False,
        outgoing: Outgoing | None = None,
    ) -> Answer | SendNow | Fail | None:
        """Return the answer, or how to get it now, or None when the caller has to be parked.

        ``now`` marks a request that no batch can take. ``outgoing`` is how it can be sent later by
        itself; None: it cannot.
        """
        with self._lock:
            if self.closed:
                return None
            body, secrets = self.replay.store.secret_places.take(request.body)
            request = dataclasses.replace(request, body=body, secrets=secrets)
            slot = (self.scope, request.identity)
            call = self._call(request, streamed, slot)
            live = self._goes_now(call, now, outgoing) and not self.replay.silent
            answer = self._answer(call, slot, live)
            if answer is not None:
                return self._serve(call, answer, slot, caller)
            if failed := self.replay.failed.get(self._bought_as(call)):
                return failed
            if not self.replay.silent and self._names_what_is_gone(call):
                caller.park()
                return None
            if live and self.replay.may_send(call):
                return self._send_now(call, slot)
            self._park(call, slot, caller, outgoing)
            return None

    def keep(self, request: Request, caller: CallContext) -> Answer | SendNow | None:
        """Do what ``ask`` does for a call by which an object at the provider is managed.

        Such a call never goes into a batch, costs nothing, and is in no books.
        """
        with self._lock:
            if self.closed:
                return None
            slot = (self.scope, request.identity)
            call = self._call(request, streamed=False, slot=slot)
            if request.target.endpoint.startswith("DELETE "):
                call = Call(request, "", 0)  # an object is deleted once, whoever does it
            answer = self.replay.kept.unfinished(call.key)
            if answer is None:
                answer = self.replay.find(call.key, self.scope)
            if answer is not None and self.replay.kept.counts(answer, self.scope):
                self._counts[slot] += 1
                self._note_object(call, answer)
                return answer
            if not self.replay.silent and self.replay.may_send(call):
                return self._keep_now(call, slot)
            self._park(call, slot, caller)
            return None

    def _keep_now(self, call: Call, slot: _Slot) -> SendNow:
        self._counts[slot] += 1

        def record(status: int, body: Any, request_id: str, headers: Mapping[str, str]) -> Answer:
            now, kept = CLOCK.now(), self.replay.kept
            answer = Answer(call.key, status, body, "", request_id, now, now, headers=headers)
            with self._lock:
                if answer.ok and not is_final(body):
                    if call.request.target.endpoint.startswith("GET "):
                        self._counts[slot] -= 1  # one of many looks, of which the last counts
                    else:
                        kept.hold(call, slot[0], answer)
                elif answer.ok or status in PERMANENT:
                    self.replay.store.add_realtime(call, slot[0], answer)
                    if answer.ok:
                        self._finish(identifier(body), answer)
                self._note_object(call, answer)
            return answer

        return SendNow(call, record)

    def _finish(self, object_id: str, seen: Answer) -> None:
        """Store what is final by now in the place of an answer that was not."""
        if made := self.replay.kept.finished(object_id):
            call, owner = made
            answer = dataclasses.replace(seen, key=call.key)
            self.replay.store.add_realtime(call, owner, answer)
            self.used = [
                (scope, one, answer if one.key == call.key else old)
                for scope, one, old in self.used
            ]

    def _note_object(self, call: Call, answer: Answer) -> None:
        object_id = identifier(answer.body)
        endpoint = call.request.target.endpoint
        if not (answer.ok and object_id) or endpoint.startswith(("GET ", "DELETE ")):
            return
        deletion = self.replay.store.peek(deletion_of(call, object_id).key)
        earlier = deletion is not None and deletion.received_at < self.replay.started_at
        self.replay.kept.note(object_id, self.scope, gone=earlier)

    def answer_of(self, object_id: str) -> Answer | None:
        """Return the answer of this attempt's own with this ID, such as a response's."""
        used = (answer for _, _, answer in reversed(self.used))
        return next((one for one in used if one.ok and identifier(one.body) == object_id), None)

    def _names_what_is_gone(self, call: Call) -> bool:
        """Whether a call without an answer needs an object that an earlier run deleted.

        Its answers were bought by then, and this is a new question: the object is made anew, which
        takes another attempt.
        """
        kept = self.replay.kept
        text = canonical_json(call.request.body) if kept.gone else ""
        gone = [object_id for object_id in kept.gone if object_id in text]
        for object_id in gone:
            kept.make_anew(object_id, CLOCK.now())
        self.parks += bool(gone)
        return bool(gone)

    def _park(
        self, call: Call, slot: _Slot, caller: CallContext, outgoing: Outgoing | None = None
    ) -> None:
        self.parks += 1
        if not caller.parked:
            self._record(call, slot, caller, outgoing)
        caller.park()

    def _goes_now(self, call: Call, now: bool, outgoing: Outgoing | None) -> bool:
        replay = self.replay
        if now and not (outgoing is not None and replay.is_direct(self.options)):
            return True
        return replay.goes_in_place(call, self.options, outgoing)

    def _call(self, request: Request, streamed: bool, slot: _Slot) -> Call:
        resend = self._resend[slot]
        occurrence = resend.pop(0) if resend else self._counts[slot]
        owner = self.replay.key_owner(self.scope)
        if self.scope == self.owner:
            owner = owner or self.options.sample
        return Call(request, owner, occurrence, streamed)

    def _answer(self, call: Call, slot: _Slot, live: bool) -> Answer | None:
        answer = self.replay.kept.unfinished(call.key) or self.replay.find(call.key, self.scope)
        lasting = answer is not None and answer.status in ABOUT_THE_REQUEST
        if answer is not None and (answer.ok or lasting or not live):
            return answer
        if live:  # whoever retries in real time reaches the provider
            return self._twin(call)
        if slot in self._errors:
            # A retry loop meets the same error again; it is no second sample.
            return self.replay.find(self._errors[slot].key, self.scope)
        return self._twin(call)

    def _serve(self, call: Call, answer: Answer, slot: _Slot, caller: CallContext) -> Answer:
        again = not answer.ok and answer.key != call.key
        if not again:
            self._counts[slot] = max(self._counts[slot], call.occurrence + 1)
            if not answer.ok:
                self._errors[slot] = call
        self.asked.add(answer.key)
        self.replay.served.add(answer.key)
        if answer.key in self.replay.memory.new_since_last_attempt(self.scope):
            caller.note_new_answer()
            self._claimed_new = True
        self.used.append((slot[0], call, answer))
        # What is not to be on disk, nor in a report, the call has brought along.
        body = redaction.with_echo(answer.body, call.request.body)
        return dataclasses.replace(answer, body=with_secrets(body, call.request.secrets))

    def _twin(self, call: Call) -> Answer | None:
        """Return an unused answer whose request is equal but for generated identifiers."""
        for key, tokens in self._twins(call):
            answer = self.replay.find(key, self.scope)
            if answer is not None:
                self.masked += 1
                return dataclasses.replace(
                    answer, body=identifiers.replace_tokens(answer.body, tokens)
                )
        return None

    def _twins(self, call: Call) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield what was bought for this owner, is not used, and differs in identifiers alone.

        Each comes with its identifiers mapped to those of the call.
        """
        replay = self.replay
        if replay.match_tokens:
            for key in sorted(replay.memory.bought(self.scope) - self.asked - {call.key}):
                body = replay.store.request_body(key)
                tokens = redaction.identifier_changes(body, call.request.body) if body else None
                if tokens is not None:
                    yield key, tokens

    def _bought_as(self, call: Call) -> str:
        """Return the key under which a call without an answer was bought, or is to be bought.

        A run that was killed, or left, may have bought it with other identifiers.
        """
        if call.key in self.replay.memory.bought(self.scope):
            return call.key
        waiting = (key for key, _ in self._twins(call) if key not in self.missing)
        return next(waiting, call.key)

    def _send_now(self, call: Call, slot: _Slot) -> SendNow:
        self._counts[slot] = max(self._counts[slot], call.occurrence + 1)
        self.replay.memory.refresh.begin()

        def record(status: int, body: Any, request_id: str, headers: Mapping[str, str]) -> Answer:
            now, store = CLOCK.now(), self.replay.store
            outcome = dialect_of(call.request.target).outcome(status, body)
            hidden = outcome.failed and is_success(status)
            answer = Answer(
                call.key,
                status,
                store.secret_places.take_from_answer(body, call.request.secrets),
                request_id=request_id,
                bought_at=now,
                received_at=now,
                failed=hidden,
                headers=headers,
                lane="realtime",
            )
            if answer.ok and not is_final(body):
                self.replay.kept.hold(call, slot[0], answer)
            else:
                store.add_realtime(call, slot[0], answer)
            with self._lock:
                if not answer.ok:
                    self._resend[slot].append(call.occurrence)
                self.asked.add(call.key)
                self.used.append((slot[0], call, answer))
            return dataclasses.replace(answer, body=body)

        return SendNow(call, record)

    def _record(
        self, call: Call, slot: _Slot, caller: CallContext, outgoing: Outgoing | None
    ) -> None:
        self._counts[slot] = call.occurrence + 1
        request, key = call.request, self._bought_as(call)
        if not caller.has_new_answers:
            self._evidence.setdefault(self.scope, key)
        pending = MissingCall(
            key=key,
            owner=self.scope,
            occurrence=call.occurrence,
            target=request.target,
            model=request.model,
            size=len(canonical_json(request.body).encode("utf-8", "surrogatepass")),
            inputs=dialect_of(request.target).inputs(request.body),
            options=self.options,
            secrets=request.secrets,
            outgoing=outgoing,
        )
        self.missing[key] = pending
        self.replay.store.spool(pending, request.body)

    def difference(self) -> Difference | None:
        """Return how this attempt strayed from what it had been answered, or None.

        It strayed when it left a bought answer unused and made a new call that did not depend on
        any answer new to it: a reproducible test would have made that call in an earlier attempt.
        Where several workers share a queue, each attempt is cut short when the first of them are
        parked, and which calls it came to by then is chance: one that used new answers is not
        compared.
        """
        if self.cut_short and self._claimed_new:
            return None
        replay = self.replay
        for owner, key in self._evidence.items():
            unused = [
                old
                for old in sorted(replay.memory.bought(owner) - self.asked)
                if replay.has(old, owner)
            ]
            bodies = [b for old in unused if (b := replay.store.request_body(old)) is not None]
            if bodies:
                asked = replay.store.spooled(key)
                closest = differences.nearest(asked, bodies)
                return Difference(owner, asked, bodies[closest or 0])
        return None
