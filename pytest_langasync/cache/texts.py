"""Large texts of request bodies (images, documents): each is stored once in the whole cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pytest_langasync.cache import files
from pytest_langasync.models import digest

LARGE = 16_384
"""Characters from which on a text is worth a file of its own."""
REFERENCE = "$langasync_text"


class Texts:
    """A folder of texts, each named by its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pack(self, body: Any) -> tuple[Any, list[str]]:
        """Return a body with references in place of its large texts, and their names.

        The texts are durable then. Raises ``CacheError``.
        """
        found: dict[str, str] = {}
        packed = _pack(body, found)
        for name, text in found.items():
            self._write(name, text)
        return packed, sorted(found)

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        if not path.exists():
            files.make_private_dir(self._folder)
            with files.replacing(path) as file:
                file.write(text.encode("utf-8", "surrogatepass"))

    def unpack(self, packed: Any, names: Collection[str]) -> Any:
        """Return the body that ``pack`` was given, or None when one of these texts is damaged."""
        try:
            texts = {name: self._read(name) for name in names}
        except files.DAMAGE:
            return None
        return _unpack(packed, texts) if texts else packed

    def _read(self, name: str) -> str:
        content = files.read_whole(self._folder / files.safe_name(name), files.LARGE)
        text = content.decode("utf-8", "surrogatepass")
        if digest(text) != name:
            raise ValueError(f"{name} is damaged")
        return text

    def forget(self, used: Collection[str], before: float) -> int:
        """Remove unused texts written before then (since the epoch); return how many."""
        if not self._folder.exists():
            return 0
        paths = [path for path in self._folder.iterdir() if path.name not in used]
        old = [path for path in paths if path.stat().st_mtime < before]
        for path in old:
            files.remove(path)
        return len(old)


def _pack(value: Any, found: dict[str, str]) -> Any:
    if isinstance(value, str):
        if len(value) < LARGE:
            return value
        name = digest(value)
        found[name] = value
        return {REFERENCE: name}
    if isinstance(value, Mapping):
        return {key: _pack(item, found) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, found) for item in value]
    return value


def _unpack(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        name = value.get(REFERENCE)
        if len(value) == 1 and isinstance(name, str) and name in texts:
            return texts[name]
        return {key: _unpack(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, texts) for item in value]
    return value
