"""Fixtures that call a model: whose calls these are, and whom a park in one of them reaches.

pytest keeps a fixture's outcome for its other users: a test can be parked without a call of its
own.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from _pytest.outcomes import Skipped

from pytest_langasync.replay import Attempt
from pytest_langasync.strands import Strands

__all__ = ["Parked", "Poison"]

T = TypeVar("T")


class Parked(Skipped):
    """A call has no answer yet. No ``Exception``, so that a test's own handlers let it pass; an
    outcome, so that pytest's fixture machinery and asynchronous runners handle it in order."""


@dataclass
class Poison:
    """Wide fixtures that were parked in this pass, and what came out of them."""

    fixtures: list[Any] = field(default_factory=list)
    exceptions: list[BaseException] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.fixtures or self.exceptions)

    def clear(self) -> None:
        """Begin a new pass."""
        self.fixtures.clear()
        self.exceptions.clear()

    def reached(self, item: pytest.Item, exception: BaseException | None = None) -> bool:
        """Whether an item failed by, or was given, what a parked fixture left in pytest's cache."""
        if isinstance(exception, Parked) or any(exception is e for e in self.exceptions):
            return True
        info = getattr(item, "_fixtureinfo", None)
        if not self.fixtures or info is None:
            return False
        used = {id(f) for group in info.name2fixturedefs.values() for f in group}
        return any(id(f) in used and f.cached_result is not None for f in self.fixtures)

    def set_up(
        self, fixturedef: pytest.FixtureDef[Any], request: Any, attempt: Attempt, strands: Strands
    ) -> Generator[None, T, T]:
        """Wrap the set-up of a fixture: its calls are its own if it is wider than a function."""
        wide = fixturedef.scope != "function"
        scope, before, function = attempt.scope, attempt.parks, fixturedef.func
        if wide:
            attempt.scope = owner_of(fixturedef, request)
        if inspect.iscoroutinefunction(function):
            replace_function(fixturedef, strands.bind(function))
        elif inspect.isasyncgenfunction(function):
            replace_function(fixturedef, strands.bind_generator(function))
        try:
            result = yield
        except BaseException as exception:
            if attempt.parks > before and not isinstance(exception, KeyboardInterrupt):
                self.exceptions.append(exception)
                if not isinstance(exception, (Skipped, Exception)):
                    # pytest caches outcomes and Exceptions only, and trips over the rest later.
                    parked = Parked("parked")
                    fixturedef.cached_result = (None, fixturedef.cache_key(request), (parked, None))
                    raise parked from None
            raise
        finally:
            attempt.scope = scope
            replace_function(fixturedef, function)
        if wide and attempt.parks > before:
            self.fixtures.append(fixturedef)
        return result


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
