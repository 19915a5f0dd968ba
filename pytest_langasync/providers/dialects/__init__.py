"""One module for each wire shape of a model's endpoint, shared by all providers that speak it.

A dialect knows the bodies of one endpoint: what a request says and measures, what an answer says
and repeats, how an error looks, and the event stream that an answer amounts to.

* In: bodies of requests and answers, as decoded JSON.
* Out: plain values and bytes; no I/O.
* May import: nothing but the modules at the top of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_langasync.models import canonical_json
from pytest_langasync.providers.dialects.base import Dialect, Outcome, Size, event_stream_of
from pytest_langasync.providers.dialects.chat_completions import CHAT_COMPLETIONS
from pytest_langasync.providers.dialects.embeddings import EMBEDDINGS
from pytest_langasync.providers.dialects.generate_content import GENERATE_CONTENT
from pytest_langasync.providers.dialects.messages import MESSAGES
from pytest_langasync.providers.dialects.responses import RESPONSES

__all__ = [
    "CHAT_COMPLETIONS",
    "DIALECTS",
    "EMBEDDINGS",
    "GENERATE_CONTENT",
    "MESSAGES",
    "RESPONSES",
    "Dialect",
    "Outcome",
    "Size",
    "dialect_of",
    "event_stream_of",
]

DIALECTS: tuple[Dialect, ...] = (
    CHAT_COMPLETIONS,
    RESPONSES,
    EMBEDDINGS,
    MESSAGES,
    GENERATE_CONTENT,
)
"""Those that come with the package."""


class _Unknown(Dialect):
    """Reads any body as well as can be, and promises nothing of it."""

    def size(self, body: Mapping[str, Any]) -> Size:
        """Return its length: what else a model may be given is not known."""
        return Size(len(canonical_json(body).encode("utf-8", "surrogatepass")), bounded=False)


_ANY = _Unknown()


def dialect_of(endpoint: Any, known: tuple[Dialect, ...] = DIALECTS) -> Dialect:
    """Return the dialect of an endpoint such as ``/chat/completions``.

    Where none of ``known`` has it, one that reads any body as well as can be: a report of another
    version may speak of endpoints that this one has never heard of.
    """
    return next((one for one in known if one.is_at(str(endpoint))), _ANY)
