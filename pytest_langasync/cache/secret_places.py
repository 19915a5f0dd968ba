"""Secrets inside bodies: tokens of tools and servers, keys in URLs, signatures of signed URLs.

They are no part of a request's identity, so that a rotated token buys nothing, and never reach the
disk or a report: a mark stands in their place, and the call brings them along. Where they stand in
a body is enough to know them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote_plus

__all__ = ["SecretPlaces", "with_secrets"]

PLACES = (
    "tools[].authorization",
    "tools[].headers",
    "mcp_servers[].authorization_token",
    "mcp_servers[].headers",
)
"""Whatever text is at these places, or inside what is there, is a secret."""
SERVERS = ("tools[].server_url", "mcp_servers[].url")
"""URLs in which every parameter may be a key, and a part of the path, too."""

_MARK = re.compile(r"\$langasync_secret:([^$]*)\$")
_ODD = re.compile(r"[^\w.+-]")
_URL = re.compile(r"https?://[^\s\"'<>\\^`{|}]+")
_USER = re.compile(r"(?<=://)[^/@?#]+(?=@)")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")
_RANDOM = re.compile(r"(?<=/)(?=[^/?#]*[0-9])(?=[^/?#]*[A-Za-z])[A-Za-z0-9_.~-]{20,}(?=[/?#]|$)")
_KEY = re.compile(
    r"(?i)(.*[-_.])?(api[-_]?key|access[-_]?key|key|code|token|secret|password|passwd|pwd|sig"
    r"|signature|auth|authorization|credential|sas)"
)
_SIGNATURE = re.compile(r"(?i)(.*[-_])?sig(nature)?")
_SIGNING = re.compile(
    r"(?i)x-(amz|goog|oss|cos)-.*|awsaccesskeyid|googleaccessid|expires|policy|key-pair-id"
    r"|s[eiprtv]|sks|skt|ske|skv|skoid|sktid|spr|hmac|hash|sign"
)
"""What a signed URL says beside its signature. It changes with each signature."""
LONG = 12
"""Characters from which on a secret is looked for in what a model says."""
NO_WORD = 8
"""Characters from which on a parameter named like a key is one, in a URL of no server."""

_Place = tuple[str, ...]
_Found = dict[str, str]


class SecretPlaces:
    """Where secrets stand in bodies.

    Args:
        more: further places, such as ``metadata.token`` or ``tools[].config.key``.

    Example:
        >>> body = {"tools": [{"type": "mcp", "authorization": "abc"}]}
        >>> kept, secrets = SecretPlaces().take(body)
        >>> kept["tools"][0]["authorization"], secrets
        ('$langasync_secret:tools.0.authorization$', {'tools.0.authorization': 'abc'})
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._places = frozenset(map(_parts, (*PLACES, *more)))
        self._servers = frozenset(map(_parts, SERVERS))
        self._tops = {place[0] for place in self._places | self._servers}

    def take(self, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return a body with marks in place of its secrets, and these by their places."""
        found: _Found = {}
        kept = self._walk(body, (), (), found)
        return (kept, found) if found else (body, {})

    def take_from_answer(self, body: Any, secrets: Mapping[str, str]) -> Any:
        """Return the body of an answer without what it repeats of its request's secrets.

        ``secrets`` are those of the request, as far as they are known. What the answer has of its
        own, such as the signed URL of an image, is what was asked for, and stays.
        """
        if isinstance(body, Mapping):
            body = {
                name: self._walk(one, (name,), (name,), {}, own=True) if name in self._tops else one
                for name, one in body.items()
            }
        long = {value: name for name, value in secrets.items() if len(value) >= LONG}
        if not long:
            return body
        pattern = re.compile("|".join(map(re.escape, sorted(long, key=len, reverse=True))))
        return _map_texts(body, lambda text: pattern.sub(lambda m: _mark(long[m[0]]), text))

    def _walk(
        self, value: Any, place: _Place, path: _Place, found: _Found, *, own: bool = False
    ) -> Any:
        """Return ``value`` without secrets. ``place`` is the ``path`` without numbers; ``own`` says
        that URLs are left alone where they are no server's."""
        if place in self._places:
            return _hide_all(value, path, found)
        if isinstance(value, str):
            server = place in self._servers
            if "://" not in value or (own and not server):
                return value
            return _URL.sub(lambda match: _without_keys(match[0], path, found, server), value)
        if isinstance(value, Mapping):
            return {
                name: self._walk(one, (*place, str(name)), (*path, str(name)), found, own=own)
                for name, one in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [
                self._walk(one, (*place, "[]"), (*path, str(number)), found, own=own)
                for number, one in enumerate(value)
            ]
        return value


def with_secrets(value: Any, secrets: Mapping[str, str]) -> Any:
    """Return a value with secrets in the place of their marks; what is not known stays."""
    if not secrets:
        return value
    return _map_texts(
        value, lambda text: _MARK.sub(lambda match: secrets.get(match[1], match[0]), text)
    )


def _parts(place: str) -> _Place:
    return tuple(place.replace("[]", ".[]").strip().split("."))


def _mark(name: str) -> str:
    return f"$langasync_secret:{name}$"


def _hide(text: str, name: str, found: _Found) -> str:
    if not text or _MARK.fullmatch(text):
        return text
    name = _ODD.sub("_", name)  # a mark in a URL stays a part of it
    while found.get(name, text) != text:  # the same parameter twice
        name += "+"
    found[name] = text
    return _mark(name)


def _hide_all(value: Any, path: _Place, found: _Found) -> Any:
    if isinstance(value, str):
        return _hide(value, ".".join(path), found)
    if isinstance(value, Mapping):
        return {name: _hide_all(one, (*path, str(name)), found) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hide_all(one, (*path, str(n)), found) for n, one in enumerate(value)]
    return value


def _without_keys(url: str, path: _Place, found: _Found, server: bool) -> str:
    """Return a URL without its password, its keys and, where it is signed, its signature."""
    base = ".".join(path)
    url = _USER.sub(lambda match: _hide(match[0], f"{base}.user", found), url)
    names = [unquote_plus(match[1]) for match in _PARAMETER.finditer(url)]
    signed = any(map(_SIGNATURE.fullmatch, names))

    def parameter(match: re.Match[str]) -> str:
        name = unquote_plus(match[1])
        secret = server or (len(match[2]) >= NO_WORD and _KEY.fullmatch(name))
        secret = secret or (signed and _SIGNING.fullmatch(name))
        value = _hide(match[2], f"{base}.{name}", found) if secret else match[2]
        return f"{match[1]}={value}"

    head, separator, query = url.partition("?")
    if server:
        head = _RANDOM.sub(lambda match: _hide(match[0], f"{base}.path", found), head)
    return head + _PARAMETER.sub(parameter, separator + query)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_texts(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_texts(one, change) for one in value]
    return value
