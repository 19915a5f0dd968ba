"""Fixtures that call a model: whose calls these are, and whom a park in one of them reaches.

pytest keeps a fixture's outcome for its other users: a test can be parked without a call of its
own. This relies on ``FixtureDef.cached_result`` (value, key, exception), on ``FixtureDef.func``
being looked up at each set-up, and on ``Function._fixtureinfo``: ``test_every_scope``,
``test_asynchronous_ones`` and ``test_whoever_shares_a_parked_fixture_waits_for_its_calls`` see it.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from _pytest.outcomes import Skipped

from pytest_langasync.engine.replay import Attempt
from pytest_langasync.interception.concurrency import ConcurrencyTracker
from pytest_langasync.models import MissingCall

__all__ = ["Parked", "ParkedFixtures"]

T = TypeVar("T")


class Parked(Skipped):
    """A call has no answer yet. No ``Exception``, so that a test's own handlers let it pass; an
    outcome, so that pytest's fixture machinery and asynchronous runners handle it in order."""


@dataclass(frozen=True)
class _Trace:
    """What a parked fixture left in pytest's cache, and the calls that it waits for."""

    left: object
    missing: tuple[MissingCall, ...]


@dataclass
class ParkedFixtures:
    """Wide fixtures that were parked in this pass, and what came out of them."""

    _fixtures: list[_Trace] = field(default_factory=list)
    _exceptions: list[_Trace] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._fixtures or self._exceptions)

    def clear(self) -> None:
        """Begin a new pass."""
        self._fixtures.clear()
        self._exceptions.clear()

    def reached(
        self, item: pytest.Item, exception: BaseException | None = None
    ) -> list[MissingCall] | None:
        """Return what an item has to wait for that failed by, or was given, what a parked fixture
        left in pytest's cache; None for any other item."""
        found = [one for one in self._exceptions if one.left is exception]
        info = getattr(item, "_fixtureinfo", None)
        if self._fixtures and info is not None:
            used = {id(f) for group in info.name2fixturedefs.values() for f in group}
            found += [one for one in self._fixtures if id(one.left) in used and _cached(one.left)]
        if found or isinstance(exception, Parked):
            return [pending for one in found for pending in one.missing]
        return None

    def set_up(
        self,
        fixturedef: pytest.FixtureDef[Any],
        request: Any,
        attempt: Attempt,
        concurrency: ConcurrencyTracker,
    ) -> Generator[None, T, T]:
        """Wrap the set-up of a fixture: its calls are its own if it is wider than a function."""
        wide = fixturedef.scope != "function"
        scope, before, function = attempt.scope, attempt.parks, fixturedef.func
        asked = set(attempt.missing)

        def trace(left: object) -> _Trace:
            return _Trace(left, tuple(p for k, p in attempt.missing.items() if k not in asked))

        if wide:
            attempt.scope = owner_of(fixturedef, request)
        if inspect.iscoroutinefunction(function):
            replace_function(fixturedef, concurrency.bind(function))
        elif inspect.isasyncgenfunction(function):
            replace_function(fixturedef, concurrency.bind_generator(function))
        try:
            result = yield
        except BaseException as exception:
            if attempt.parks > before and not isinstance(exception, KeyboardInterrupt):
                self._exceptions.append(trace(exception))
                if not isinstance(exception, (Skipped, Exception)):
                    # pytest caches outcomes and Exceptions only, and trips over the rest later.
                    parked = Parked("parked")
                    self._exceptions.append(trace(parked))
                    fixturedef.cached_result = (None, fixturedef.cache_key(request), (parked, None))
                    raise parked from None
            raise
        finally:
            attempt.scope = scope
            replace_function(fixturedef, function)
        if wide and attempt.parks > before:
            self._fixtures.append(trace(fixturedef))
        return result


def _cached(fixturedef: Any) -> bool:
    return fixturedef.cached_result is not None


def replace_function(fixturedef: pytest.FixtureDef[Any], function: Any) -> None:
    """Swap a fixture's function, as asynchronous plugins do."""
    fixturedef.func = function  # type: ignore[misc]


def owner_of(fixturedef: pytest.FixtureDef[Any], request: Any) -> str:
    """Name a wide fixture in a way that does not depend on which test came first."""
    owner = f"{fixturedef.baseid}::{fixturedef.argname}"
    if not hasattr(request, "param"):
        return f"{owner}@fixture"
    param = request.param
    plain = isinstance(param, (str, int, float, bool, type(None)))
    return f"{owner}[{param if plain else request.param_index}]@fixture"
