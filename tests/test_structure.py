"""The shape of the package: its rooms, who may import whom, and what an inactive run may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "pytest_langasync"
ROOT = Path(__file__).parent.parent / PACKAGE
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="needs the source tree")

TOP = {"config", "exceptions", "identifiers", "models"}
"""Modules at the top of the package that every room may import."""
MAY_IMPORT: dict[str, set[str]] = {
    "interception": set(),
    "cache": set(),
    "providers": {"interception"},
    "sandbox": {"providers"},
    "lanes": {"providers", "cache", "interception"},
    "costs": {"providers", "cache"},
    "engine": {"lanes", "costs", "providers", "cache", "interception", "sandbox"},
    "scoring": {"interception"},
    "reporting": {"costs", "scoring", "providers", "cache"},
    "chains": {"engine", "reporting", "lanes", "costs", "providers", "cache", "interception"},
    "plugin": {
        "chains", "engine", "reporting", "scoring", "lanes", "costs", "providers", "cache",
        "interception",
    },
    "cli": {
        "chains", "engine", "reporting", "scoring", "lanes", "costs", "providers", "cache",
        "interception", "sandbox",
    },
}  # fmt: skip
"""The rooms, from the ground floor up, and the rooms below that each may import."""
FLOORS_OF_ROOMS = 8
FLOORS_OF_FILES = 15
FILES_AT_THE_TOP = {"__init__", "__main__", *TOP}

HEAVY = {
    "anthropic",
    "anyio",
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
    "starlette",
    "tenacity",
    "uvicorn",
}
RESERVED = {
    "openai": {"providers"},
    "anthropic": {"providers"},
    "httpx": {"interception", "providers", "sandbox"},
    "httpx2": {"interception", "providers", "sandbox"},
    "aiohttp": {"interception"},
    "requests": {"interception"},
    "starlette": {"sandbox", "cli"},
    "uvicorn": {"sandbox", "cli"},
    "rich": {"reporting"},
    "genai_prices": {"costs"},
    "pytest": {"plugin"},
    "_pytest": {"plugin"},
}
"""Libraries that only some rooms may know at all, lazily or not."""


def modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def parse(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


def dotted(module: str) -> str:
    """Return the name of a file below the package; a room's ``__init__`` is the room itself."""
    return ".".join(Path(module).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """Return the room of a dotted name, or its own name where it lies at the top."""
    return name.partition(".")[0]


def module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs at import: not the bodies of functions, not ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from module_level(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the full dotted names that the import statements among ``nodes`` bring in."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


NAMES = {dotted(module) for module in modules()}


def target(name: str) -> str:
    """Return the module that an imported dotted name leads to, below the package, or nothing."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return ""
    while parts and ".".join(parts[1:]) not in NAMES:
        parts.pop()
    return ".".join(parts[1:])


def own_imports(module: str, *, at_import: bool = False) -> set[str]:
    """Return the modules of the package that a module imports."""
    tree = parse(module)
    nodes = module_level(tree) if at_import else ast.walk(tree)
    return {found for name in imported(nodes) if (found := target(name))} - {dotted(module)}


def floors(graph: dict[str, set[str]]) -> int:
    """Return how many floors a graph without a cycle has."""
    height: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        height[name] = 1 + max((height[below] for below in graph.get(name, ())), default=0)
    return max(height.values())


def test_the_plan() -> None:
    top = {Path(module).stem for module in modules() if "/" not in module}
    assert top == FILES_AT_THE_TOP
    assert {room(dotted(module)) for module in modules() if "/" in module} == MAY_IMPORT.keys()
    order = list(MAY_IMPORT)
    for name, below in MAY_IMPORT.items():
        assert all(order.index(one) < order.index(name) for one in below), name


@pytest.mark.parametrize("module", modules())
def test_arrows_point_downwards(module: str) -> None:
    name = dotted(module)
    if name == "__init__":
        at_import = set(imported(module_level(parse(module))))
        assert not [one for one in at_import if one.startswith(PACKAGE)], "importing it is free"
        return
    allowed = TOP | MAY_IMPORT.get(room(name), {"cli"}) | {room(name)}
    assert {one for one in own_imports(module) if room(one) not in allowed} == set()


def test_no_cycle_and_few_floors() -> None:
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for module in modules():
        name = dotted(module)
        files[name] = own_imports(module, at_import=True)
        if name != "__init__":
            below = {room(one) for one in own_imports(module)} - {room(name)}
            rooms.setdefault(room(name), set()).update(below)
    assert floors(rooms) <= FLOORS_OF_ROOMS
    assert floors(files) <= FLOORS_OF_FILES


ARCHITECTURE = ROOT.parent / "docs" / "contributing" / "architecture.md"


def rooms_imported() -> dict[str, set[str]]:
    """Return which rooms each room imports."""
    found: dict[str, set[str]] = {name: set() for name in MAY_IMPORT}
    for module in modules():
        name = room(dotted(module))
        if name in found:
            found[name] |= {room(one) for one in own_imports(module)} & found.keys() - {name}
    return found


def diagram(rooms: dict[str, set[str]]) -> str:
    """Draw the rooms, top floor first. An arrow that follows from two others is left out."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(rooms).static_order():
        below[name] = rooms[name].union(*(below[one] for one in rooms[name]))
    lines = ["```mermaid", "flowchart TD"]
    for name in reversed(MAY_IMPORT):
        implied = set().union(*(below[one] for one in rooms[name]))
        lines += [f"    {name} --> {one}" for one in sorted(rooms[name] - implied)]
    return "\n".join([*lines, "```"])


def test_the_diagram_of_rooms_is_what_is_imported() -> None:
    """Where this fails, paste what is expected into the page."""
    assert diagram(rooms_imported()) in ARCHITECTURE.read_text(encoding="utf-8")


def test_the_page_of_architecture_names_what_there_is() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*/?[a-z_]*\.py|[a-z_]+/)`", ARCHITECTURE.read_text())
    assert named
    assert [
        name for name in named if not any((at / name).exists() for at in (ROOT, ROOT.parent))
    ] == []


def test_names_with_an_underscore_stay_in_their_room() -> None:
    strayed = [
        f"{module}: {one}"
        for module in modules()
        for one in imported(ast.walk(parse(module)))
        if one.startswith(f"{PACKAGE}.") and room(target(one)) != room(dotted(module))
        if any(part.startswith("_") and not part.startswith("__") for part in one.split("."))
    ]
    assert not strayed


WITHOUT_PROVIDERS = {
    "cache", "cli", "costs", "engine", "identifiers", "lanes", "models", "reporting",
}  # fmt: skip
"""Rooms that work for every provider: none is named there, and none of its endpoints."""


def said(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the texts of a module that are no docstring."""
    told = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in told:
            yield node


@pytest.mark.parametrize(
    "module", [one for one in modules() if room(dotted(one)) in WITHOUT_PROVIDERS]
)
def test_providers_and_endpoints_are_named_in_their_room_alone(module: str) -> None:
    from pytest_langasync.providers import providers

    names = {name for one in providers() for name in (one.name, one.title.lower())}
    names |= {dialect.endpoint for one in providers() for dialect in one.dialects}
    named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    faults = [
        f"line {text.lineno}: {text.value[:60]!r}"
        for text in said(parse(module))
        if named.search(text.value.lower())
    ]
    assert not faults


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_says_what_it_is_for(name: str) -> None:
    said = ast.get_docstring(parse(f"{name}/__init__.py")) or ""
    assert "May import" in said


def test_a_test_that_is_named_exists() -> None:
    """Where code relies on inner behaviour of something, it names the test that would notice."""
    tests = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("*.py")
    )
    named = {
        name
        for module in modules()
        for name in re.findall(r"``(test_\w+)", (ROOT / module).read_text(encoding="utf-8"))
    }
    assert {name for name in named if f"def {name}(" not in tests} == set()


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_are_imported_lazily(module: str) -> None:
    """By what an inactive run imports: its entry point, and what that brings along."""
    names = {name.split(".")[0] for name in imported(module_level(parse(module)))}
    if room(dotted(module)) == "sandbox":
        names -= {"starlette", "uvicorn", "pydantic"}
    assert not names & (HEAVY - {"pydantic"})


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_in_their_room(module: str) -> None:
    names = {name.split(".")[0] for name in imported(ast.walk(parse(module)))}
    place = room(dotted(module))
    assert {name for name in names & RESERVED.keys() if place not in RESERVED[name]} == set()


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


def test_no_test_file_imports_another() -> None:
    tests = Path(__file__).parent
    names = {path.stem for path in tests.rglob("test_*.py")}
    faults = [
        f"{path.relative_to(tests)}: {name}"
        for path in tests.rglob("*.py")
        for name in imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        if names & set(name.split(".")) - {"test"}
    ]
    assert not faults


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
    assert not loaded & HEAVY
