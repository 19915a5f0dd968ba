"""Which tests may look at which others, and which of those still wait for a verdict.

Two tests are neighbours when one may see what the other left behind: tests of one module, tests
that name a wide fixture of the suite in common, and tests that a marker ties together. Only a
neighbour that comes *earlier* in collection order matters: in real time, too, a test knows nothing
of those that come after it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections import defaultdict
from collections.abc import Hashable, Iterator, Set
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest
from _pytest import fixtures

from pytest_langasync.plugin import other_plugins

__all__ = ["Neighbours", "is_own", "module_of", "set_up_now"]

PLAIN = (type(None), bool, int, float, complex, str, bytes, FunctionType, ModuleType, type)
"""Values through which no test can tell another anything."""
HARMLESS = {"pytest", "fail", "skip", "xfail", "exit"} | {
    "abs", "all", "any", "bool", "dict", "float", "int", "len", "list", "max", "min", "range",
    "repr", "round", "set", "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip
"""Names that lead to nothing that another test could have changed."""
EVERYBODY = "(session)"
"""What all tests of a session share, as those know that report on the whole session."""


class WideFixture(NamedTuple):
    """One instance of a fixture that several tests are given."""

    definition: pytest.FixtureDef[Any]
    node: Any
    """The pytest node whose tests are given it: a class, a module, a package, the session."""
    param: int | None
    """The index of its parameter."""


class Neighbours:
    """The tests of a session by what they may share; knows who of them still waits."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._order: dict[pytest.Item, int] = {}
        self._shared: dict[pytest.Item, tuple[Hashable, ...]] = {}
        self._waiting: defaultdict[Hashable, set[int]] = defaultdict(set)
        self._seen: defaultdict[Hashable, set[int]] = defaultdict(set)
        """By what is shared, the tests that began to run in this process."""
        self._ran: defaultdict[Hashable, set[int]] = defaultdict(set)
        """Of these, those that ran to their end against what is set up now."""
        self._decides: bool | None = None

    def order(self, item: pytest.Item) -> int:
        """Return a test's place in collection order."""
        if not self._order:
            self._order = {one: index for index, one in enumerate(self._session.items)}
        return self._order[item]

    # ---- who waits

    def waits(self, item: pytest.Item) -> None:
        """Note that a test has no verdict yet, although its turn has come."""
        for key in self._keys(item):
            self._waiting[key].add(self.order(item))

    def goes_on(self, item: pytest.Item) -> None:
        """Note that a test waits no longer."""
        for key in self._keys(item):
            self._waiting[key].discard(self.order(item))

    def earlier_waiting(self, item: pytest.Item) -> set[int]:
        """Return the places of the earlier neighbours of a test that still wait."""
        if not self._waiting[EVERYBODY]:
            return set()
        place = self.order(item)
        keys = (EVERYBODY,) if other_plugins.looks_at_session(item) else self._keys(item)[1:]
        return {one for key in keys for one in self._waiting[key] if one < place}

    def in_order(self, item: pytest.Item) -> bool:
        """Whether what became of earlier neighbours decides, outside of a test, how it ends."""
        if self._decides is None:
            self._decides = other_plugins.conftest_decides_by_outcomes(self._session.config)
        return self._decides or any(item.get_closest_marker(m) for m in other_plugins.IN_ORDER)

    def free(self, item: pytest.Item) -> bool:
        """Whether nothing that other tests do can have a part in how a test ends.

        Such a test (``assert False``, above all) has its verdict at once, and with ``-x`` the run
        ends before anything is bought.
        """
        tied = any(item.get_closest_marker(mark) for mark in other_plugins.TIES)
        looks = other_plugins.looks_at_session(item) or self.in_order(item)
        return not (tied or looks) and sees_nothing(item)

    # ---- who ran against the same fixtures

    def begin_pass(self) -> None:
        """Forget who ran: each module is set up anew. Fixtures tell it themselves."""
        for key in [key for key in self._ran if isinstance(key, str)]:
            del self._ran[key]

    def fixture_set_up(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
        """Note that nobody has left anything in a wide fixture yet."""
        index = request.param_index if hasattr(request, "param") else None
        self._ran.pop(WideFixture(fixturedef, request.node, index), None)

    def starts(self, item: pytest.Item) -> None:
        """Note that a test begins to run."""
        for key in self._keys(item):
            self._seen[key].add(self.order(item))

    def ran(self, item: pytest.Item) -> None:
        """Note that a test left behind what it leaves in real time."""
        for key in self._keys(item):
            self._ran[key].add(self.order(item))

    def module_complete(self, item: pytest.Item) -> bool:
        """Whether all earlier tests of its module ran since the module was set up."""
        return not self._lacking(module_of(item), item)

    def fixtures_complete(self, item: pytest.Item) -> bool:
        """Whether all earlier tests that use a wide fixture of a test left their part in it."""
        return not any(self._lacking(one, item) for one in self._stateful(item))

    def shares_fixture(self, item: pytest.Item) -> bool:
        """Whether a test is given something by a wide fixture that others use and may change."""
        return any(len(self._seen[one]) > 1 for one in self._stateful(item))

    def group(self, item: pytest.Item) -> set[pytest.Item]:
        """Return the tests that have to run with a test so that it sees what it sees in real time.

        Itself among them; all of them have run in this process.
        """
        keys = [module_of(item), *(one for one in self._stateful(item) if self._lacking(one, item))]
        places = {place for key in keys for place in self._seen[key]}
        return {self._session.items[place] for place in places} | {item}

    def _lacking(self, key: Hashable, item: pytest.Item) -> bool:
        place = self.order(item)
        return any(one < place for one in self._seen[key] - self._ran[key])

    # ---- what is shared

    def _keys(self, item: pytest.Item) -> tuple[Hashable, ...]:
        if item not in self._shared:
            ties = [mark for mark in other_plugins.TIES if item.get_closest_marker(mark)]
            self._shared[item] = (EVERYBODY, module_of(item), *wide_fixtures(item), *ties)
        return self._shared[item]

    def _stateful(self, item: pytest.Item) -> list[WideFixture]:
        fixtures = (key for key in self._keys(item) if isinstance(key, WideFixture))
        return [one for one in fixtures if may_hold_state(one.definition)]


def module_of(item: pytest.Item) -> str:
    """Return the node ID of the file that a test comes from."""
    files = [node for node in item.listchain() if isinstance(node, pytest.File)]
    return files[-1].nodeid if files else item.nodeid


def wide_fixtures(item: pytest.Item) -> Iterator[WideFixture]:
    """Yield the suite's own fixtures wider than a function that a test names, through others too.

    Fixtures that are used without being named (``autouse``) hand nothing to a test. Relies on
    pytest's ``_fixtureinfo`` and its ``get_scope_node``: ``test_a_session_fixture_ties_modules``.
    """
    info: Any = getattr(item, "_fixtureinfo", None)
    if info is None:
        return
    used = [name for mark in item.iter_markers("usefixtures") for name in mark.args]
    names, seen = [*info.argnames, *used], set[str]()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for fixturedef in info.name2fixturedefs.get(name, ()):
            names += fixturedef.argnames
            if fixturedef.scope != "function" and is_own(fixturedef.func.__module__):
                node: Any = fixtures.get_scope_node(item, fixturedef._scope)
                indices = getattr(getattr(item, "callspec", None), "indices", {})
                yield WideFixture(fixturedef, node or item, indices.get(name))


def set_up_now(item: pytest.Item) -> Iterator[Any]:
    """Yield the values of a test's wide fixtures that are set up before it begins."""
    for fixture in wide_fixtures(item):
        if fixture.definition.cached_result is not None:
            yield fixture.definition.cached_result[0]


def sees_nothing(item: pytest.Item) -> bool:
    """Whether a test names nothing outside of its own body."""
    info: Any = getattr(item, "_fixtureinfo", None)
    given = getattr(getattr(item, "callspec", None), "params", {}).keys()
    if info is None or not set(info.argnames) <= given:
        return False
    named = names_in(getattr(item, "function", None))
    return named is not None and named <= HARMLESS | given


@functools.lru_cache(maxsize=256)
def names_in(function: Any) -> Set[str] | None:
    """Return all names in a function's body; None where it imports something, or is not known.

    Its source tells, not its code: pytest writes names of its own into that.
    """
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, ValueError, SyntaxError):
        return None
    nodes = [node for part in getattr(definition, "body", ()) for node in ast.walk(part)]
    if any(isinstance(one, (ast.Import, ast.ImportFrom)) for one in nodes):
        return None
    return {one.id for one in nodes if isinstance(one, ast.Name)}


def may_hold_state(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether tests may leave something behind in a fixture's value, as far as can be told.

    A value of an installed package's class (a client, a model) is taken for one that holds nothing
    of the suite's.
    """
    if fixturedef.cached_result is None:
        return True
    value = fixturedef.cached_result[0]
    if isinstance(value, PLAIN):
        return False
    module = type(value).__module__
    return module.partition(".")[0] in sys.stdlib_module_names or is_own(module)


@functools.cache
def is_own(module: str) -> bool:
    """Whether a module is the suite's own, and not an installed one's or Python's."""
    if module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)
