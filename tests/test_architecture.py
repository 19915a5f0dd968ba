"""The shape of the package: who may import whom, and what an inactive run may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "pytest_langasync"
ROOT = Path(__file__).parent.parent / PACKAGE
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="needs the source tree")

# A module imports from its own layer or from those below.
LAYERS = (
    {"plugin", "hookspecs"},
    {"evals", "account"},
    {"session", "distribution", "waves", "fixtures", "reporter", "reports"},
    {"hybrid"},
    {"crew", "rounds"},
    {"chain"},
    {"job"},
    {"work"},
    {"records", "runner", "monitor"},
    {"engine", "budget", "deferral", "edits", "hosts"},
    {"router", "forks", "unused"},
    {"detour"},
    {"cli", "__main__"},
    {"evaluators"},
    {"scoring", "cases", "gates", "comparison"},
    {"report"},
    {"awaiting", "intervals"},
    {"ledger"},
    {"batch", "_outcome", "_plan", "_poll", "_search", "_submit", "_tidy"},
    {"providers"},
    {"intercept", "attempt", "replay", "renewal", "sse", "strands", "lineage", "tracing"},
    {"store", "_disk", "_files", "_index", "_intents", "_records", "_requests", "_spool", "_texts"},
    {"pricing", "masks"},
    {"config", "marker"},
    {"options"},
    {"models"},
    {"exceptions"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

STARTS_SANDBOX = {"plugin", "session", "hosts", "hookspecs"}
PYTEST = {
    "plugin",
    "evals",
    "hookspecs",
    "session",
    "distribution",
    "waves",
    "fixtures",
    "reporter",
    "reports",
    "account",
    "config",
}

HEAVY = {
    "anthropic",
    "genai_prices",
    "httpx",
    "httpx2",
    "langchain",
    "langchain_core",
    "langgraph",
    "langsmith",
    "openai",
    "opentelemetry",
    "pydantic",
    "rich",
    "stamina",
    "tenacity",
}
# Libraries that only some layers may know at all, lazily or not.
RESERVED = {
    "openai": {"providers"},
    "anthropic": {"providers"},
    "httpx": {"intercept", "sandbox"},
    "httpx2": {"intercept", "sandbox"},
    "starlette": {"sandbox"},
    "uvicorn": {"sandbox"},
    "rich": {"report"},
    "genai_prices": {"pricing"},
    "pytest": PYTEST,
    "_pytest": PYTEST,
}


def modules() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


def parse(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


def top(module: str) -> str:
    """The name by which ``LAYERS`` knows a file: its own, or its folder's."""
    return Path(module).parts[0].removesuffix(".py")


def module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs at import: not the bodies of functions, not ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from module_level(child)


def imported(nodes: Iterator[ast.AST], module: str) -> Iterator[str]:
    """Full dotted names that the import statements among ``nodes`` bring in."""
    package = [PACKAGE, *Path(module).parent.parts]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """Names in ``LAYERS`` that ``module`` imports, its own excluded."""
    names = imported(ast.walk(parse(module)), module)
    parts = [name.split(".") for name in names if name.split(".")[0] == PACKAGE]
    found = {part[1] for part in parts if len(part) > 1} - {top(module)}
    return {name for name in found if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()}


@pytest.mark.parametrize("module", modules())
def test_arrows_point_one_way(module: str) -> None:
    name, targets = top(module), own_imports(module)
    if name == "sandbox":
        assert targets <= {"models"}
    elif name == "__init__":
        at_import = set(imported(module_level(parse(module)), module))
        assert at_import == {
            "importlib",
            "typing.TYPE_CHECKING",
            "typing.Any",
            "__future__.annotations",
        }, "importing the package must stay free"
    else:
        assert name in RANK, f"{module} has no place in LAYERS"
        # Somebody has to start the sandbox; nothing else may know it.
        targets -= {"sandbox"} if name in STARTS_SANDBOX else set()
        assert {target for target in targets if RANK.get(target, -1) < RANK[name]} == set()


def test_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for module in modules():
        graph.setdefault(top(module), set()).update(own_imports(module))
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_are_imported_lazily(module: str) -> None:
    names = {name.split(".")[0] for name in imported(module_level(parse(module)), module)}
    if top(module) != "sandbox":
        names &= HEAVY | {"starlette", "uvicorn"}
    else:
        names &= HEAVY
    assert not names


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_in_their_layer(module: str) -> None:
    names = {name.split(".")[0] for name in imported(ast.walk(parse(module)), module)}
    misplaced = {name for name in names & RESERVED.keys() if top(module) not in RESERVED[name]}
    assert not misplaced


@pytest.mark.parametrize("module", modules())
def test_no_print_no_global_no_mutable_global(module: str) -> None:
    tree = parse(module)
    faults = [
        f"line {node.lineno}: {ast.unparse(node)[:60]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
    ]
    # An empty container at module level can only be there to be filled.
    faults += [
        f"line {node.lineno}: {ast.unparse(node)[:60]}"
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.value) in {"[]", "{}", "set()", "dict()", "list()"}
    ]
    assert not faults


@pytest.mark.parametrize("module", modules())
def test_small_enough_to_see_whole(module: str) -> None:
    text = (ROOT / module).read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    functions = [
        node
        for node in ast.walk(parse(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno is not None}
    assert {name: size for name, size in long.items() if size > 50} == {}


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, importlib; importlib.import_module(sys.argv[1]);"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{PACKAGE}.plugin"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert PACKAGE in loaded
    assert not loaded & (HEAVY | {"starlette", "uvicorn"})
