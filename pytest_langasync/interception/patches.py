"""Replacements in other libraries: how they are made, when, and how they are undone."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["ImportWatcher", "Patches"]


class Patches:
    """What was replaced, in order. Whoever patched after us keeps a way through our replacement,
    which then has to do nothing."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace an attribute of a class or module by what ``make`` makes of it."""
        inherited = name not in vars(owner)
        original = getattr(owner, name)
        replacement = functools.wraps(original)(make(original))
        setattr(owner, name, replacement)

        def restore() -> None:
            if vars(owner).get(name) is not replacement:
                return
            if inherited:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

        self._undo.append(restore)

    def undo(self) -> None:
        """Put back everything that is still ours."""
        while self._undo:
            self._undo.pop()()


class ImportWatcher(importlib.abc.MetaPathFinder):
    """Tells when a library has been imported: importing each for its patch would cost a second."""

    def __init__(self, names: Sequence[str], imported: Callable[[ModuleType], None]) -> None:
        self._names = frozenset(names)
        self._imported = imported
        self._looking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that reports when it is done."""
        if name not in self._names or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        loader = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._imported(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
