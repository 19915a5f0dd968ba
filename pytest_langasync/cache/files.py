"""Durable, private files: atomic replacement, checked JSON lines, repaired appends.

A line of ours is ``{…head…,"crc":"xxxxxxxx","body":…}``: the head is read without parsing the body,
and the checksum tells a damaged line from a whole one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from pytest_langasync.exceptions import CacheError
from pytest_langasync.models import canonical_json, digest, to_json

_CRC = b',"crc":"'
_BODY = b'","body":'
COPY = ".copy"
"""The end of the name of a document's copy."""
DAMAGE = (OSError, ValueError)
"""What reading a damaged document may raise."""
SMALL = 1_000_000
"""The most bytes of a document about one job or one submission."""
LARGE = 512_000_000
"""The most bytes of a line, and of a document that grows with the suite. A batch of the providers
holds 256 MB at most, so that a larger one was not written by us."""
T = TypeVar("T")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Line(Generic[T]):
    """A whole line of a file: its place in bytes, and its parsed head."""

    offset: int
    length: int
    head: T


def safe_name(name: str) -> str:
    """Return a file name for ``name`` that cannot leave its folder; ordinary names stay as is."""
    return name if _PLAIN_NAME.fullmatch(name) else f"~{digest(name)}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a write into a ``CacheError`` with one clear line."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"cannot write the cache at {path}: {error.strerror or error}") from error


def make_private_dir(path: Path) -> None:
    """Create ``path`` and what is missing above it, each readable by this user alone."""
    with writing(path):
        for folder in [*reversed(path.parents), path]:
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_dir(folder.parent)


def sync_dir(path: Path) -> None:
    """Make the creation, renaming and removal of files in a folder durable."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_private(path: Path, flags: int, buffering: int = -1) -> IO[bytes]:
    descriptor = os.open(path, flags | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    return os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "r+b", buffering)


class Draft:
    """A file being written under a temporary name."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def write(self, data: bytes) -> None:
        """Write bytes. Raises ``CacheError``."""
        with writing(self._path):
            self._file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Draft]:
    """Write a file that appears under its name whole and durable, or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with writing(path):
        file = _open_private(draft, os.O_WRONLY | os.O_EXCL)
    try:
        yield Draft(path, file)
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            draft.replace(path)
            sync_dir(path.parent)
    except BaseException:
        # Closing writes once more what a full disk had no room for.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Replace a file by these lines."""
    with replacing(path) as file:
        for line in lines:
            file.write(line)


def remove(path: Path) -> None:
    """Remove a file durably; a missing one is no error."""
    with writing(path):
        if path.exists():
            path.unlink(missing_ok=True)
            sync_dir(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with its files durably."""
    with writing(path):
        shutil.rmtree(path)
        sync_dir(path.parent)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of the cache, which may come from a stranger.

    Raises:
        CacheError: it is a link or no file at all; what it leads to is not for us to read.
        OSError: it cannot be read.
    """
    # Without O_NONBLOCK the open of a named pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise refused(path, "is a symbolic link")
    with os.fdopen(os.open(path, flags | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise refused(path, "is no plain file")
        yield file


def refused(path: Path, why: str) -> CacheError:
    """Return the error for what no cache of ours holds."""
    return CacheError(f"{path} {why}: refused. Remove it, or choose another cache directory")


def read_whole(path: Path, most: int) -> bytes:
    """Return the content of a file of at most so many bytes. Raises as ``reading`` does."""
    with reading(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise refused(path, f"is larger than {most:,} bytes")
    return content


def _loads(data: bytes) -> Any:
    """Return the value of JSON. Raises ``ValueError``."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _document_crc(document: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(canonical_json(document).encode('utf-8', 'surrogatepass')):08x}"


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace ``path`` by a JSON object that carries its own checksum."""
    checked = {**document, "crc": _document_crc(document)}
    with replacing(path) as file:
        file.write(json.dumps(checked, indent=1).encode() + b"\n")


def read_document(path: Path, most: int = SMALL) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        ValueError: it is damaged.
        CacheError: it has more than ``most`` bytes, or is no plain file.
    """
    document = _loads(read_whole(path, most))
    if not isinstance(document, dict) or document.pop("crc", None) != _document_crc(document):
        raise ValueError("its checksum does not match")
    return document


def copy_of(path: Path) -> Path:
    """Return where the copy of a document lies."""
    return path.with_name(path.name + COPY)


def write_twice(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON object and its copy: one damaged file loses nothing."""
    write_document(copy_of(path), document)
    write_document(path, document)


def read_either(
    path: Path, parse: Callable[[Mapping[str, Any]], T], report: Callable[[str], None]
) -> T:
    """Return what ``parse`` makes of a document that was written twice.

    Raises:
        FileNotFoundError: there is neither.
        ValueError, OSError: neither can be read.
    """
    try:
        return parse(read_document(path))
    except DAMAGE as error:
        first = error
    try:
        found = parse(read_document(copy_of(path)))
    except DAMAGE as error:
        raise (error if isinstance(first, FileNotFoundError) else first) from None
    if not isinstance(first, FileNotFoundError):
        report(f"{path}: damaged ({first}); its copy is read")
    return found


def encode_line(head: Mapping[str, Any], body: Any) -> bytes:
    """Return one line with its checksum and its line feed."""
    start, content = to_json(head)[:-1], to_json(body)
    crc = zlib.crc32(content, zlib.crc32(start))
    return start + _CRC + b"%08x" % crc + _BODY + content + b"}\n"


def _split(line: bytes) -> tuple[bytes, bytes] | None:
    """Return (head, body) of a whole line, or None for a damaged one."""
    start, _, rest = line.partition(_CRC)
    if rest[8:17] != _BODY or not rest.endswith(b"}\n"):
        return None
    content = rest[17:-2]
    if rest[:8] != b"%08x" % zlib.crc32(content, zlib.crc32(start)):
        return None
    return start + b"}", content


def scan(path: Path, parse: Callable[[bytes], T]) -> Iterator[Line[T] | None]:
    """Yield the lines of a file, None for each damaged one; an absent file has none.

    ``parse`` is given the JSON of a head; a line that it raises ``ValueError`` for is damaged.

    Raises:
        CacheError: no line of ours can be that long, or it is no plain file.
    """
    offset = 0
    with contextlib.suppress(FileNotFoundError), reading(path) as file:
        while line := file.readline(LARGE + 1):
            if len(line) > LARGE:
                raise refused(path, f"has a line of more than {LARGE:,} bytes")
            parts, found = _split(line), None
            if parts:
                with contextlib.suppress(ValueError):
                    found = Line(offset, len(line), parse(parts[0]))
            yield found
            offset += len(line)


def ends_torn(path: Path) -> bool:
    """Return whether the last line lacks its line feed (a writer was cut off, or is at work)."""
    with contextlib.suppress(OSError), reading(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            return file.read(1) != b"\n"
    return False


def read_line(
    path: Path, offset: int, length: int, parse: Callable[[bytes], T]
) -> tuple[T, Any] | None:
    """Return (head, body) of the line at this place, or None when it is not whole any more."""
    try:
        with reading(path) as file:
            file.seek(offset)
            parts = _split(file.read(length))
        return (parse(parts[0]), _loads(parts[1])) if parts else None
    except DAMAGE:
        return None


def raw_line(path: Path, line: Line[Any]) -> bytes:
    """Return the bytes of a scanned line."""
    with reading(path) as file:
        file.seek(line.offset)
        return file.read(line.length)


def append(path: Path, line: bytes, *, durable: bool = True) -> int:
    """Append a line, after cutting off a torn one, and return its offset in bytes.

    A write that fails leaves the file as it was. Only one process may append to a file.
    """
    with writing(path), _open_private(path, os.O_RDWR, buffering=0) as file:
        size = _whole_size(file)
        file.truncate(size)
        file.seek(size)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
        return size


def _whole_size(file: IO[bytes]) -> int:
    """Return the size of a file up to the last line feed."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - 65536)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def signature(path: Path) -> tuple[int, int, int]:
    """Return what changes whenever a file is replaced or grows; zeros for an absent file."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
