"""What the tests of one module share in plain objects: noticed, and undone after a parked attempt.

A test that has two calls runs up to its second one, and then again from the start. What it wrote
before that (an item of the module's list of results, a count) would be there twice. So the lists,
dicts, sets and numbers that are within reach of a test (its module, its class, its wide fixtures,
and objects of the suite's own classes in these) are put back after an attempt that was parked.
What has to be closed one day (a client, a connection) stays: to make it again may fail. Files,
databases and the inner state of installed packages are out of reach.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_langasync.plugin.neighbours import is_own

__all__ = ["ModuleState", "Snapshot"]

DEPTH = 3
LARGE = 1_000
"""What holds more than this from the start is taken for a data set, and left alone."""
LONG = 100
"""Into what holds more than this nobody looks any deeper: it would cost more than the test."""
CLOSING = ("close", "aclose", "__exit__", "__aexit__", "terminate")
"""What classes have whose objects hold something open."""
NOT_OURS = (sys.modules, sys.path, sys.path_importer_cache)


class Snapshot:
    """The contents of plain containers, and numbers, at one moment."""

    def __init__(self, ignored: dict[int, Any], *, first: bool = False) -> None:
        """``ignored`` holds, by ``id``, containers that are left alone; the first snapshot adds
        data sets to it."""
        self._ignored, self._is_first = ignored, first
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._numbers: list[tuple[object, str, Any]] = []

    def add_namespace(self, owner: object, depth: int = DEPTH) -> None:
        """Take down what the attributes of a module, class or object hold."""
        for name, value in list(vars(owner).items()):
            if name.startswith("__"):
                continue
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._numbers.append((owner, name, value))
            else:
                self.add(value, depth)

    def add(self, value: Any, depth: int = DEPTH) -> None:
        """Take down a value, as far as it is a container or an object of the suite's own."""
        if depth == 0 or id(value) in self._contents or id(value) in self._ignored:
            return
        if isinstance(value, (list, dict, set, deque)):
            if self._is_first and len(value) > LARGE:
                self._ignored[id(value)] = value
                return
            self._contents[id(value)] = (value, _copy(value))
            if len(value) <= LONG and not isinstance(value, set):
                for one in list(value.values() if isinstance(value, dict) else value):
                    self.add(one, depth - 1)
        elif is_object_of_suite(value):
            self._contents[id(value)] = (value, None)
            self.add_namespace(value, depth - 1)

    @property
    def changed(self) -> bool:
        """Whether anything is not as it was."""
        return any(
            (now := getattr(owner, name, None)) is not value and now != value
            for owner, name, value in self._numbers
        ) or any(_differs(value, copy) for value, copy in self._contents.values())

    def restore(self) -> None:
        """Put everything back, except for what holds something open."""
        for owner, name, number in self._numbers:
            now = getattr(owner, name, None)
            if isinstance(now, (int, float)) and now is not number:
                setattr(owner, name, number)
        for value, copy in self._contents.values():
            if _differs(value, copy) and not _opened(value, copy):
                value.clear()
                value.update(copy) if isinstance(value, (dict, set)) else value.extend(copy)


class ModuleState:
    """What the tests of one module may change in plain sight of each other."""

    def __init__(self, item: pytest.Item) -> None:
        """``item`` is the first of the module's tests, before anything of it has run."""
        self._module: Any = getattr(item, "module", None)
        self._ignored: dict[int, Any] = {id(one): one for one in NOT_OURS}
        self.changed = False
        """Whether a test, or an attempt of one, was seen to change any of it."""
        self._first = self._take(item, first=True)

    def _take(self, item: pytest.Item, *, first: bool = False) -> Snapshot:
        snapshot = Snapshot(self._ignored, first=first)
        if self._module is not None:
            snapshot.add_namespace(self._module)
        for node in item.listchain():
            if isinstance(node, pytest.Class):
                snapshot.add_namespace(node.obj)
        return snapshot

    def take(self, item: pytest.Item, values: Iterable[Any] = ()) -> Snapshot:
        """Take down what is within reach of a test, and ``values`` besides."""
        snapshot = self._take(item)
        for value in values:
            snapshot.add(value)
        return snapshot

    def begin_again(self) -> None:
        """Put everything back to what it was before the first test of the module."""
        self._first.restore()


def is_object_of_suite(value: Any) -> bool:
    """Whether a value is an object, with attributes, of a class that the suite itself defines."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "pytest_langasync":
        return False
    return not isinstance(value, type) and hasattr(value, "__dict__") and is_own(kind.__module__)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)
    return set(value) if isinstance(value, set) else list(value)


def _differs(value: Any, copy: Any) -> bool:
    if copy is None:  # an object, whose attributes stand for it
        return False
    if len(value) != len(copy):
        return True
    if isinstance(value, set):
        return bool(value != copy)
    if isinstance(value, dict):
        return any(
            one is not other or value[one] is not copy[other]
            for one, other in zip(value, copy, strict=True)
        )
    return any(one is not other for one, other in zip(value, copy, strict=True))


def _opened(value: Any, copy: Any) -> bool:
    """Whether something that was added since holds something open."""
    before = {id(one) for one in (copy.values() if isinstance(copy, dict) else copy)}
    now = value.values() if isinstance(value, dict) else value
    return any(
        id(one) not in before and any(hasattr(type(one), name) for name in CLOSING) for one in now
    )
