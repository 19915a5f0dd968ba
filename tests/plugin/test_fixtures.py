"""Fixtures that call a model: whose calls these are, and what becomes of those who share them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.suite import Suite

Verdicts = Callable[[pytest.RunResult], dict[str, int]]


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
@pytest.mark.parametrize("kind", ["return", "yield"])
def test_every_scope(suite: Suite, scope: str, kind: str, verdicts: Verdicts) -> None:
    suite.write(f"""
@pytest.fixture(scope="{scope}")
def answer():
    {kind} ask("shared")

@pytest.mark.langasync
class TestIt:
    def test_one(self, answer): assert "own" in ask("own " + answer)
    def test_two(self, answer): assert "shared" in answer

def test_unmarked(request):
    if "{scope}" not in ("function", "class"):
        assert "shared" in request.getfixturevalue("answer")
""")
    result = suite.run("-v")
    assert verdicts(result) == {"passed": 3}
    shared = 2 if scope == "function" else 1
    assert [len(wave) for wave in suite.waves()] == [shared, 1]
    assert verdicts(suite.run("-k", "two")) == {"passed": 1, "deselected": 2}
    assert len(suite.ledger()) == shared + 1, "the key of a wide fixture's call is the fixture"


def test_parametrized_and_nested(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
@pytest.fixture(scope="session")
def outer(): return ask("outer")

@pytest.fixture(scope="module", params=["a", "b"])
def inner(request, outer): return ask(request.param + outer)

@pytest.mark.langasync
@pytest.mark.parametrize("n", range(2))
def test_it(inner, n): assert "outer" in inner
""")
    assert verdicts(suite.run()) == {"passed": 4}
    assert [len(wave) for wave in suite.waves()] == [1, 2]
    assert verdicts(suite.run("-k", "b-1 or 1-b")) == {"passed": 1, "deselected": 3}
    assert len(suite.ledger()) == 3


def test_a_finalizer_that_calls(suite: Suite, verdicts: Verdicts) -> None:
    suite.write("""
@pytest.fixture
def closing():
    yield
    trace(ask("goodbye"))

@pytest.mark.langasync
def test_it(closing): assert "hello" in ask("hello")
""")
    assert verdicts(suite.run()) == {"passed": 1}
    assert suite.traced() == ["Sandbox answer to: goodbye"]
    assert sorted(text for wave in suite.waves() for text in wave) == ["goodbye", "hello"]


ASYNCHRONOUS = {
    "pytest-asyncio": """
import pytest_asyncio

@pytest_asyncio.fixture(scope="{scope}", loop_scope="{scope}")
async def answer():
    yield await aask("shared")

@pytest.mark.langasync
@pytest.mark.asyncio(loop_scope="{scope}")
@pytest.mark.parametrize("n", range(2))
async def test_it(answer, n):
    assert "own" in await aask("own " + answer)
""",
    "anyio": """
@pytest.fixture(scope="{scope}")
def anyio_backend(): return "{backend}"

@pytest.fixture(scope="{scope}")
async def answer(anyio_backend):
    yield await aask("shared")

@pytest.mark.langasync
@pytest.mark.anyio
@pytest.mark.parametrize("n", range(2))
async def test_it(answer, n):
    assert "own" in await aask("own " + answer)
""",
}


@pytest.mark.parametrize(
    ("plugin", "scope", "backend"),
    [
        ("pytest-asyncio", "function", ""),
        ("pytest-asyncio", "module", ""),
        ("pytest-asyncio", "session", ""),
        ("anyio", "function", "asyncio"),
        ("anyio", "module", "asyncio"),
        ("anyio", "function", "trio"),
        ("anyio", "module", "trio"),
    ],
)
def test_asynchronous_ones(
    suite: Suite, plugin: str, scope: str, backend: str, verdicts: Verdicts
) -> None:
    suite.write(ASYNCHRONOUS[plugin].format(scope=scope, backend=backend))
    if plugin == "anyio":
        suite.use("anyio.pytest_plugin")
    result = suite.run()
    assert verdicts(result) == {"passed": 2}
    assert [len(wave) for wave in suite.waves()] == [2 if scope == "function" else 1, 2]
    assert verdicts(suite.run()) == {"passed": 2}
    assert len(suite.ledger()) == (4 if scope == "function" else 3)
