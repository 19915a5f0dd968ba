"""Replacements of functions and methods of other libraries, and how they are undone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["Patches"]


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
