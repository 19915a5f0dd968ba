"""What is remembered of owners (tests, wide fixtures), within a run and from one to the next.

What was bought for whom is written down before it is bought, so that a run which is killed, or
left, is gone on with; what was judged is taken off the list when the run ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_langasync.cache.records import OwnerState
from pytest_langasync.config import CLOCK
from pytest_langasync.engine.refresh import NOTHING, Refresh, end_run
from pytest_langasync.models import ABOUT_THE_REQUEST

if TYPE_CHECKING:
    from pytest_langasync.config import Settings
    from pytest_langasync.lanes import RunContext
    from pytest_langasync.models import Answer, MissingCall

__all__ = ["Memory"]


class Memory:
    """The memory of one run. It reads the cache when it is made; ``save`` writes it."""

    def __init__(self, context: RunContext) -> None:
        settings: Settings = context.settings
        self._store = context.store
        self._settings = settings
        self._states = dict(context.store.owners.read())
        self._bought: defaultdict[str, set[str]] = defaultdict(set)
        self._new: dict[str, frozenset[str]] = {}
        self._changes: dict[str, OwnerState | None] = {}
        self._generated: dict[str, OwnerState] = {}
        """Judged tests whose requests held generated identifiers, with the keys that served."""
        self._fixtures: set[str] = set()
        self._deferred = False
        self.refresh = Refresh(
            context.store,
            self._states,
            started_at=context.started_at,
            refresh=settings.refresh,
            max_age=settings.max_age,
        )
        for owner, state in self._states.items():
            if state.waiting:
                self._bought[owner].update(state.waiting)
                self._new[owner] = frozenset(state.waiting)

    # ---- what attempts ask

    def state(self, owner: str) -> OwnerState:
        """Return what earlier runs left about an owner."""
        return self._states.get(owner, NOTHING)

    def bought(self, owner: str) -> frozenset[str]:
        """Return the keys of what was bought for an owner since it was last judged."""
        return frozenset(self._bought.get(owner, ()))

    def new_since_last_attempt(self, owner: str) -> frozenset[str]:
        """Return the keys whose answers the owner's previous attempt did not have yet."""
        return self._new.get(owner, frozenset())

    # ---- what becomes of attempts

    def parked(self, owner: str, missing: Mapping[str, MissingCall]) -> None:
        """Keep in mind what a parked attempt of ``owner`` asked for, until its next one."""
        for name in {call.owner for call in missing.values()} | {owner}:
            self._new[name] = frozenset(key for key, call in missing.items() if call.owner == name)

    def judged(self, owner: str, used: Iterable[tuple[str, Answer]], *, masked: bool) -> None:
        """Note that a test was judged on these answers, each with the owner that asked for it.

        ``masked`` says that some were asked for with other generated identifiers.
        """
        used = list(used)
        if owner in self._states:
            self._changes[owner] = None
        for scope, answer in used:
            if not answer.ok and answer.status not in ABOUT_THE_REQUEST:
                self._changes[scope] = OwnerState(errors_spent_at=CLOCK.now())
            if scope != owner:
                self._fixtures.add(scope)
        if masked:
            keys = tuple(sorted(answer.key for _, answer in used))
            self._generated[owner] = OwnerState(waiting=keys, judged=True)
        self._forget(owner)

    def differs(self, owner: str) -> bool:
        """Note that a request differs from the one that an earlier run stored.

        Returns whether that may be: an edited prompt is bought anew, but once. A second time in a
        row the owner is not reproducible.
        """
        state = self.state(owner)
        if state.differed:
            return False
        self._states[owner] = replace(state, differed=True)
        self._bought.pop(owner, None)
        return True

    def gave_up(self, owner: str, missing: Iterable[MissingCall]) -> None:
        """Forget a test that cannot be replayed; the next run starts with it afresh."""
        for name in {owner, *(call.owner for call in missing)}:
            self._forget(name)
            self._changes[name] = None

    def deferred(self) -> None:
        """Note that a test still waits when the run ends."""
        self._deferred = True

    def _forget(self, owner: str) -> None:
        self._bought.pop(owner, None)
        self._new.pop(owner, None)

    # ---- what is bought

    def note_purchase(self, missing_calls: Iterable[MissingCall]) -> int:
        """Write down for whom these are about to be bought; return for how many owners.

        Raises:
            CacheError: it cannot be written, and so must not be bought.
        """
        changes = self.note_bought(missing_calls)
        if changes:
            self.refresh.begin()
            self._store.owners.update(changes)
        return len(changes)

    def note_bought(self, missing_calls: Iterable[MissingCall]) -> dict[str, OwnerState]:
        """Note what this process, or another one, buys for whom; return what is new of each."""
        owners = set()
        for call in missing_calls:
            self._bought[call.owner].add(call.key)
            owners.add(call.owner)
        changes: dict[str, OwnerState] = {}
        for owner in owners:
            state = self.refresh.waiting(owner, self.state(owner))
            waiting = tuple(sorted(self._bought[owner]))
            changes[owner] = self._states[owner] = replace(state, waiting=waiting, judged=False)
        return changes

    # ---- what outlives the run

    def save(self, *, goes_on: bool) -> None:
        """Write down whose errors have served and who is no longer waiting.

        Where the run ``goes_on`` later, judged tests with generated identifiers ask once more.
        Raises ``CacheError``.
        """
        if goes_on:
            for owner, state in self._generated.items():
                self._changes[owner] = self._changes.get(owner) or state
        if not self._deferred:  # else a fixture may be asked again on behalf of another test
            for fixture in self._fixtures & self._states.keys():
                self._changes.setdefault(fixture, None)
        if self._changes:
            self._store.owners.update(self._changes)
            self._changes.clear()

    def end_run(self) -> None:
        """Forget what a run in which every test was judged would have needed to go on later."""
        settings = self._settings
        end_run(self._store, refresh=settings.refresh, max_age=settings.max_age is not None)
