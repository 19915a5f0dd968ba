"""What a dialect answers, with the answers that hold for most of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_langasync.models import canonical_json

__all__ = ["RAW", "Dialect", "Event", "Json", "Outcome", "Size", "event_stream_of", "pieces"]

Json = Mapping[str, Any]
Event = tuple[str, Json]
"""The event's name (empty for an unnamed one) and its data."""

RAW = "$langasync_raw"
"""Marks the body of an answer that is no JSON, kept byte for byte: its ``type``, and its ``text``
or ``base64``."""
MAX_PIECES = 16
MIN_PIECE = 12

_IMAGES = frozenset({"image", "image_url", "input_image"})
_ATTACHMENTS = frozenset({"file", "input_file", "document", "input_audio", "container_upload"})
_TEXT_SOURCES = frozenset({"text", "content"})


@dataclass(frozen=True, slots=True)
class Size:
    """How large the input of a request is."""

    text: int
    """Bytes of its texts and schemas, as UTF-8."""
    images: int = 0
    numbers: int = 0
    """Tokens that it gives by their numbers."""
    bounded: bool = True
    """Whether nothing but these can be added to the input, such as what a search finds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer amounts to."""

    status: int
    body: Any
    failed: bool
    """Whether it is no success, whatever its status says."""
    retryable: bool
    """Whether the same request may succeed when it is sent again."""


class Dialect:
    """One wire shape. Its class attributes and methods are what another shape changes.

    Example::

        class Completions(Dialect):
            endpoint = "/completions"
            conversation = ("prompt",)
            output_limits = ("max_tokens",)

            def said(self, body):
                return "\\n".join(choice["text"] for choice in body["choices"])
    """

    endpoint = ""
    """The path below the base URL, such as ``/chat/completions``."""
    usage_flavor = "default"
    """What ``genai-prices`` calls the shape of its usage."""
    conversation: tuple[str, ...] = ("messages", "input", "prompt")
    """The parameter that holds what is said to the model; of several the first that is there."""
    preamble: tuple[str, ...] = ("system", "instructions")
    """Parameters that hold what is said before."""
    output_limits: tuple[str, ...] = ()
    """The parameters that limit the tokens of an answer, the one to set first."""
    without_output = False
    """Whether its answers cost nothing but their input."""
    schemas: tuple[str, ...] = ("tools",)
    """Parameters that are put before the model as JSON."""
    stateful: tuple[str, ...] = (
        "previous_response_id",
        "conversation",
        "prompt",
        "mcp_servers",
        "container",
    )
    """Parameters that bring along input which the request does not hold."""
    hosted_tools = ("web_", "file_search", "code_", "mcp", "image_generation", "tool_search")
    """Beginnings of the types of tools that the provider runs: what they find is input, too."""
    stream_parameters: tuple[str, ...] = ("stream",)
    """What a provider refuses, or has no use for, in a request that is not streamed."""
    holds_answer: tuple[str, ...] = ("choices", "output", "content", "data")
    """The keys of a body of which one holds the answer."""
    echoed: frozenset[str] = frozenset()
    """What an answer may repeat of its request, at its top."""

    # ---- calls

    @property
    def ends(self) -> tuple[str, ...]:
        """The ends of the paths of its calls, by which most other requests are told at once."""
        return (self.endpoint,) if self.endpoint else ()

    def is_at(self, endpoint: str) -> bool:
        """Return whether this is the shape of an endpoint, given without the base URL."""
        return endpoint == self.endpoint

    def split(self, path: str, headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Return (path of the base URL, endpoint) of a call to this shape; None for another.

        ``headers`` are those of the call, with names in lower case.
        """
        if not self.endpoint or not path.endswith(self.endpoint):
            return None
        return path.removesuffix(self.endpoint), self.endpoint

    def streamed(self, path: str, query: Mapping[str, str], body: Json) -> Json | None:
        """Return what ``event_stream`` has to know of a streamed call; None for one that is not."""
        return body if body.get("stream") else None

    def model(self, endpoint: str) -> str:
        """Return the model that an endpoint names, or an empty string where the body does."""
        return ""

    # ---- requests

    def strip_stream(self, body: Json) -> dict[str, Any]:
        """Return a request without what asks for a stream; order is kept."""
        return {key: value for key, value in body.items() if key not in self.stream_parameters}

    def inputs(self, body: Json) -> int:
        """Return how many inputs a request holds, where a provider counts these."""
        return 1

    def output_limit(self, body: Json) -> int | None:
        """Return the most tokens that a request lets an answer have; None where it sets none."""
        if self.without_output:
            return 0
        limits = [body.get(name) for name in self.output_limits]
        given = [limit for limit in limits if isinstance(limit, int) and limit >= 0]
        return min(given) if given else None

    def with_output_limit(self, body: Json, tokens: int) -> Json:
        """Return a request that limits the tokens of its answer to ``tokens``."""
        if not self.output_limits:
            return body
        kept = {key: value for key, value in body.items() if key not in self.output_limits}
        return {**kept, self.output_limits[0]: tokens}

    def size(self, body: Json) -> Size:
        """Return how large the input of a request is."""
        text = images = numbers = 0
        stateful = set(self.stateful).difference(self.conversation)
        bounded = not any(body.get(name) for name in stateful)
        for name in self.schemas:
            if name in body:
                text += _bytes(canonical_json(body[name]))
        tools = body.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, Mapping) else None
            bounded = bounded and not str(kind).startswith(self.hosted_tools)
        queue: list[Any] = [body.get(name) for name in (*self.conversation, *self.preamble)]
        while queue:
            part = queue.pop()
            if isinstance(part, str):
                text += _bytes(part)
            elif isinstance(part, int):
                numbers += 1
            elif isinstance(part, Mapping):
                kind = part.get("type")
                if kind in _IMAGES:
                    images += 1
                elif kind in _ATTACHMENTS and not _is_text(part):
                    bounded = False
                else:
                    queue.extend(part.values())
            elif isinstance(part, Sequence):
                queue.extend(part)
        return Size(text, images, numbers, bounded)

    def features(self, body: Json) -> str:
        """Return which parameters and kinds of tools a request makes use of, in words."""
        tools = {str(tool.get("type", "function")) for tool in mappings(body.get("tools"))}
        names = (f"tools({' '.join(sorted(tools))})" if n == "tools" else n for n in sorted(body))
        return " ".join(names)

    def last_text(self, body: Json) -> str:
        """Return the text of the last thing that a request says to the model."""
        said = self._conversation(body)
        if isinstance(said, list) and said:
            last = said[-1]
            return text_of(last) if isinstance(last, Mapping | str) else f"{len(said)} inputs"
        return said if isinstance(said, str) else ""

    def messages(self, body: Json) -> list[tuple[str, str]]:
        """Return all that a request says to the model, in order: who says it, and the text."""
        said = self._conversation(body)
        if not isinstance(said, list):
            said = [{"role": "user", "content": said}]
        elif said and not isinstance(said[-1], Mapping | str):  # tokens to embed
            said = [f"{len(said)} inputs"]
        parts = [(name, body.get(name)) for name in self.preamble]
        parts += [(_speaker(one), one) for one in said]
        return [(who, text) for who, part in parts if (text := text_of(part))]

    def _conversation(self, body: Json) -> Any:
        return next((body[name] for name in self.conversation if name in body), None)

    # ---- answers

    def is_answer(self, body: Any) -> bool:
        """Return whether a body is surely a successful answer of this shape."""
        return False

    def outcome(self, status: int, body: Any) -> Outcome:
        """Return what an answer amounts to: a status of 200 may hide a failure.

        A body that came as the text of its JSON is read.
        """
        body = _decoded(body)
        if 200 <= status < 300:
            why = self.failure(body) if isinstance(body, Mapping) else {}
            failed = why is not None
            return Outcome(status, body, failed, failed and _is_passing(why or {}))
        error = body.get("error") if isinstance(body, Mapping) else None
        broke = isinstance(error, Mapping) and is_out_of_money(error)
        retryable = not broke and (status in PASSING or status >= 500)
        return Outcome(status, body, True, retryable)

    def failure(self, body: Json) -> Json | None:
        """Return the error that a body hides although its status is that of a success, or None."""
        error = body.get("error")
        if not error or any(body.get(name) for name in self.holds_answer):
            return None
        return error if isinstance(error, Mapping) else {"message": str(error)}

    def error_of(self, body: Any) -> Json:
        """Return the error object of a body, or an empty one."""
        error = body.get("error") if isinstance(body, Mapping) else None
        return error if isinstance(error, Mapping) else {}

    def is_final(self, body: Any) -> bool:
        """Return whether nothing is still to come of an answer."""
        return True

    def event_stream(self, body: Json, request_body: Json) -> bytes:
        """Return the server-sent events that amount to the successful answer ``body``.

        ``request_body`` is the request as the SDK made it, with what asks for the stream.

        Raises:
            ValueError: answers of this shape cannot be streamed.
        """
        raise ValueError(f"no event stream is known for {self.endpoint!r}")

    def answer_text(self, body: Any) -> str:
        """Return what an answer says: text, calls of tools, or the error."""
        if not isinstance(body, Mapping):
            return str(body)
        if isinstance(raw := body.get(RAW), Mapping):
            return str(raw.get("text", f"[{raw.get('type')}]"))
        if isinstance(error := body.get("error"), Mapping):
            kind = error.get("type") or error.get("code") or "error"
            return f"{kind}: {error.get('message', '')}"
        return self.said(body)

    def said(self, body: Json) -> str:
        """Return what a successful answer says."""
        if isinstance(choices := body.get("choices"), list):
            return join(text_of(choice.get("message", choice)) for choice in mappings(choices))
        return text_of(body.get("output") or body.get("content") or body.get("message"))

    def error_body(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> dict[str, Any]:
        """Return an error in the shape in which the provider's real-time endpoint gives it."""
        return openai_error(status, message, code=code, param=param)


# ---- errors, as most providers give them

PASSING = frozenset({408, 425, 429})
"""Statuses, besides those from 500 on, that are no fault of the request."""
PASSING_CODES = frozenset(
    ("api_error", "capacity_exceeded", "internal_error", "internal_server_error", "overloaded",
     "overloaded_error", "rate_limit_error", "rate_limit_exceeded", "server_error",
     "service_unavailable", "timeout", "timeout_error", "vector_store_timeout")
)  # fmt: skip
OUT_OF_MONEY = frozenset(
    ("billing_error", "billing_hard_limit_reached", "billing_not_active",
     "enforced_spend_limit_reached", "insufficient_quota")
)  # fmt: skip


def is_out_of_money(error: Json) -> bool:
    """Return whether an error object says that the account cannot pay, which no retry cures."""
    details = error.get("details")
    detail = details.get("error_code") if isinstance(details, Mapping) else None
    words = (error.get("code"), error.get("type"), detail)
    return any(isinstance(word, str) and word in OUT_OF_MONEY for word in words)


def _is_passing(error: Json) -> bool:
    """Return whether an error that came with the status of a success may pass by itself."""
    code = error.get("code")
    if isinstance(code, int):  # a gateway's own status
        return code in PASSING or code >= 500
    named = (error.get(name) for name in ("code", "type", "status"))
    return not error or str(next(filter(None, named), "")) in PASSING_CODES


def _decoded(body: Any) -> Any:
    """Return a body; one that is the text of a JSON object is read."""
    if isinstance(body, str):
        try:
            value = json.loads(body)
        except ValueError:
            return body
        return value if isinstance(value, dict) else body
    return body


_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}


def openai_error(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error body; all four keys are always there."""
    fallback = ("server_error" if status >= 500 else "invalid_request_error", None)
    kind, usual_code = _TYPES.get(status, fallback)
    error = {"message": message, "type": kind, "param": param, "code": code or usual_code}
    return {"error": error}


# ---- texts


def text_of(part: Any) -> str:
    """Return the text of a message, block or item of any shape, or of a list of them."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        return join(_texts(part))
    return join(text_of(one) for one in part) if isinstance(part, list) else ""


def _texts(part: Json) -> Iterator[str]:
    kind = part.get("type")
    if kind in ("tool_use", "function_call", "custom_tool_call"):
        yield tool_call(part.get("name"), part.get("input", part.get("arguments")))
        return
    for name in ("text", "refusal", "content", "output"):
        yield text_of(part.get(name))
    for call in mappings(part.get("tool_calls")):
        for function in mappings([call.get("function")]):
            yield tool_call(function.get("name"), function.get("arguments"))
    if kind in _IMAGES or kind in ("file", "input_file", "document"):
        yield f"[{kind}]"


def tool_call(name: Any, arguments: Any) -> str:
    """Return the call of a tool as a person reads it."""
    return f"{name}({arguments})"


def mappings(items: Any) -> Iterator[Json]:
    """Yield the objects of what should be a list of them."""
    return (
        (one for one in items if isinstance(one, Mapping)) if isinstance(items, list) else iter(())
    )


def join(texts: Iterable[str]) -> str:
    """Return the texts that are not empty, each on lines of its own."""
    return "\n".join(text for text in texts if text)


def _speaker(item: Any) -> str:
    named = item if isinstance(item, Mapping) else {}
    return str(named.get("role") or named.get("type") or "input")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _is_text(part: Json) -> bool:
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") in _TEXT_SOURCES


# ---- event streams


def event_stream_of(events: Iterable[Event], end: bytes = b"") -> bytes:
    """Return server-sent events as they go over the wire, and ``end`` after them."""
    return b"".join(_encoded(name, data) for name, data in events) + end


def _encoded(name: str, data: Json) -> bytes:
    # Escaped to ASCII, so that no decoder takes U+2028 or U+0085 for the end of a line.
    text = f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{text}" if name else text).encode("ascii")


def pieces(text: str) -> list[str]:
    """Cut a text into a few pieces, as a stream would bring it."""
    size = max(MIN_PIECE, -(-len(text) // MAX_PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]


def pieces_with_logprobs(text: str, logprobs: Sequence[Json]) -> Iterator[tuple[str, list[Json]]]:
    """Cut at the tokens where they spell the text; else all of them go with the first piece."""
    if not logprobs or "".join(entry.get("token", "") for entry in logprobs) != text:
        rest = list(logprobs)
        for piece in pieces(text) or ([""] if rest else []):
            yield piece, rest
            rest = []
        return
    size = -(-len(logprobs) // MAX_PIECES)
    for start in range(0, len(logprobs), size):
        part = list(logprobs[start : start + size])
        yield "".join(entry["token"] for entry in part), part
