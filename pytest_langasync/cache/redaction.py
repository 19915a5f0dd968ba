"""What is kept of requests and answers where prompts must not be stored: digests in place of texts.

An answer may echo its request: what it repeats is left out on disk, and given back from the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_langasync.identifiers import mask, same_but_for_tokens
from pytest_langasync.models import digest

__all__ = [
    "DIGESTS", "digests", "identifier_changes", "is_digests", "with_echo", "without_echo",
]  # fmt: skip

DIGESTS = "$langasync_digests"


def digests(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be stored of a body in place of its texts: the model, digests, its tokens."""
    text, tokens = mask(body)
    kept = {name: f"sha256:{digest(value)}" for name, value in body.items() if name != "model"}
    model = {"model": body["model"]} if "model" in body else {}
    return {DIGESTS: {"masked": digest(text), "tokens": tokens}, **model, **kept}


def is_digests(body: Any) -> bool:
    """Return whether a stored body is what ``digests`` made of it."""
    return isinstance(body, Mapping) and isinstance(body.get(DIGESTS), Mapping)


_ECHO = "$langasync_echo"


def without_echo(answer: Any, request: Mapping[str, Any] | None, echoed: frozenset[str]) -> Any:
    """Return the body of an answer without what it repeats of its request.

    ``request`` may be digests; None where it is not known. ``echoed`` names what answers of this
    shape may repeat at their top.
    """
    if not isinstance(answer, Mapping):
        return answer
    # The instructions may also be those of a prompt that is kept at the provider.
    names = echoed if request is None else echoed & {*request, "instructions"}
    return {k: {_ECHO: True} if v and k in names else v for k, v in answer.items()}


def with_echo(answer: Any, request: Mapping[str, Any]) -> Any:
    """Return the body of an answer with what ``without_echo`` left out, as the request has it."""
    if not isinstance(answer, Mapping):
        return answer
    return {k: request.get(k) if v == {_ECHO: True} else v for k, v in answer.items()}


def identifier_changes(stored: Any, asked: Any) -> dict[str, str] | None:
    """Return the identifiers of a stored request mapped to those of one that is asked now.

    None where the two differ in anything else. ``stored`` may be digests.
    """
    if not is_digests(stored):
        return same_but_for_tokens(stored, asked)
    text, tokens = mask(asked)
    if digest(text) != stored[DIGESTS]["masked"]:
        return None
    pairs = zip(stored[DIGESTS]["tokens"], tokens, strict=True)
    return {a: b for a, b in pairs if a != b}
