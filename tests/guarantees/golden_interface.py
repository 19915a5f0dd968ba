"""What the package offers its users, read in the ways in which they would."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "pytest_langasync"
PLACES = {
    PACKAGE: (),
    f"{PACKAGE}.scoring": (),
    f"{PACKAGE}.sandbox": ("Reply", "ReplyRequest", "Tool", "ToolCall"),
}
"""Modules that users import from, and the names there where not all of ``__all__`` is meant: what
a conftest needs that answers for the sandbox."""
MADE = ("CostMonitor", "HybridBatchProcessor", "Score", "Reply", "Tool", "ToolCall")
"""Classes that users call; objects of the others are handed to them."""
OWN = {"BatchJob": ("attach", "start")}
"""Methods that the package calls itself, as their documentation says."""
PROTOCOLS = ("__aenter__", "__await__", "__enter__", "__exit__", "__float__")
COMMANDS = ("jobs", "show", "cancel", "prune", "doctor")
HOOKS = """
import json, pathlib

def pytest_configure(config):
    hooks = vars(config.pluginmanager.hook).items()
    found = {
        name: {
            "arguments": [*hook.spec.argnames],
            "firstresult": bool(hook.spec.opts.get("firstresult")),
        }
        for name, hook in hooks
        if name.startswith("pytest_langasync")
    }
    pathlib.Path("hooks.json").write_text(json.dumps(found))
"""
"""A conftest that tells which hooks there are."""

Run = Callable[..., str]
"""Runs ``pytest``, or the package's commands, with these arguments; returns the output, or an empty
text where it failed."""


def today(folder: Path, pytest: Run, commands: Run) -> dict[str, Any]:
    """Return the interface of the version that is installed; ``folder`` is an empty one."""
    (folder / "conftest.py").write_text(HOOKS)
    text = pytest("--help")
    hooks = json.loads((folder / "hooks.json").read_text())
    fixtures = re.findall(r"^(\w+)(?: \[.*\])? -- ", pytest("--fixtures"), re.MULTILINE)
    return {
        "options": dict(options(text)),
        "settings": re.findall(r"^  (langasync_\w+) \(\w+\):", text, re.MULTILINE),
        "marker": marker(pytest("--markers")),
        "fixtures": [name for name in fixtures if name.startswith(("langasync", "scored"))],
        "hooks": hooks,
        "commands": {
            name: arguments(text)
            for name in ("", *COMMANDS)
            if (text := commands(*filter(None, [name]), "--help"))
        },
        "names": {place: names(place) for place in PLACES},
    }


def options(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each option of ``pytest --help``: what it takes, and whether a help says more."""
    pattern = r"^  (--langasync-[\w-]+)(?:[= ](\S+))?(?:\n? {2,}(\S.*))?$"
    for name, metavar, said in re.findall(pattern, text, re.MULTILINE):
        yield name, {"metavar": metavar, "help": bool(said)}


def marker(text: str) -> dict[str, str]:
    """Return the keywords of the marker and their defaults, from ``pytest --markers``."""
    found = re.search(r"@pytest\.mark\.(langasync\(.*?\)): ", text)
    call = ast.parse(found[1] if found else "langasync()", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(one.arg): ast.unparse(one.value) for one in call.keywords}


def arguments(text: str) -> list[str]:
    """Return what a command of the package takes, from its ``--help``."""
    usage = " ".join(text.partition("\n\n")[0].partition("[-h]")[2].split())
    return re.findall(r"--[\w-]+|\b[a-z]\w+\b", usage)


# ---- names


def names(place: str) -> dict[str, Any]:
    """Return the public names of a module."""
    module = importlib.import_module(place)
    return {
        name: described(name, getattr(module, name)) for name in PLACES[place] or module.__all__
    }


def described(name: str, thing: Any) -> dict[str, Any]:
    """Return what a caller may rely on."""
    if not inspect.isclass(thing):
        return function(thing)
    own = [one for one in thing.__mro__ if one.__module__.partition(".")[0] == PACKAGE]
    found: dict[str, Any] = {}
    for one in reversed(own):
        found |= dict.fromkeys(inspect.get_annotations(one))
        found |= vars(one)
    members = {
        member: function(value) if inspect.isfunction(value) else "attribute"
        for member, value in found.items()
        if not member.startswith("_") and member not in OWN.get(name, ())
    }
    return {
        "bases": [one.__name__ for one in thing.__mro__[1:-1]],
        "protocols": [one for one in PROTOCOLS if callable(getattr(thing, one, None))],
        "made": parameters(thing) if name in MADE else None,
        "members": dict(sorted(members.items())),
    }


def function(thing: Any) -> dict[str, Any]:
    """Return a function's parameters, and whether it has to be awaited."""
    return {"async": inspect.iscoroutinefunction(thing), "parameters": parameters(thing)}


def parameters(thing: Any) -> list[dict[str, str]]:
    """Return the parameters in order; the default is code, and empty where one must be given."""
    given = inspect.signature(thing).parameters.values()
    return [
        {
            "name": one.name,
            "kind": one.kind.name,
            "default": "" if one.default is one.empty else repr(one.default),
        }
        for one in given
        if one.name != "self"
    ]


def broken(kept: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield what a caller of the kept interface would trip over in that of today.

    New names, new optional parameters and attributes are no harm.
    """
    if isinstance(kept, dict) and isinstance(now, dict):
        for name, one in kept.items():
            if name not in now:
                yield f"{where}{name} is gone"
            elif name in ("parameters", "made", "arguments"):
                yield from _calls(one, now[name], where)
            else:
                yield from broken(one, now[name], f"{where}{name}: ")
    elif isinstance(kept, list) and isinstance(now, list):
        yield from (f"{where}{one} is gone" for one in kept if one not in now)
    elif kept != now:
        yield f"{where}{kept!r} has become {now!r}"


def _calls(kept: Any, now: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with a list of parameters, or of a hook's arguments."""
    if not kept or not isinstance(kept[0], dict):
        yield from broken(kept, now, where)
        return
    places = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
    first = [one["name"] for one in kept if one["kind"] in places]
    if [one["name"] for one in now if one["kind"] in places][: len(first)] != first:
        yield f"{where}the order of {', '.join(first)} is another"
    taken = {one["name"]: one for one in now}
    for one in kept:
        if one["name"] not in taken:
            yield f"{where}parameter {one['name']} is gone"
        elif taken[one["name"]]["default"] != one["default"]:
            yield f"{where}parameter {one['name']} has another default"
        elif one["kind"].endswith("KEYWORD") and taken[one["name"]]["kind"] == "POSITIONAL_ONLY":
            yield f"{where}parameter {one['name']} is no keyword any more"
    known = {one["name"] for one in kept}
    for one in now:
        optional = one["default"] or one["kind"].startswith("VAR")
        if one["name"] not in known and not optional:
            yield f"{where}the new parameter {one['name']} must be given"
