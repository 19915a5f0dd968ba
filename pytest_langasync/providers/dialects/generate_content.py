"""Gemini's generateContent. The model, and whether to stream, stand in the path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.providers.dialects.base import (
    Dialect,
    Json,
    Size,
    event_stream_of,
    join,
    mappings,
    tool_call,
)

__all__ = ["GENERATE_CONTENT", "GenerateContent", "status_of"]

PATH = re.compile(
    r"(?P<base>(?:/[^/]+)*/v1(?:beta|alpha)?\d*)(?P<model>/models/[^/:]+)"
    r":(?:generate|streamGenerate)Content"
)
"""Vertex AI's paths name a project: they are none of these."""
CALL = ":generateContent"
STATUS = {
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    11: (400, "OUT_OF_RANGE"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    16: (401, "UNAUTHENTICATED"),
}
"""HTTP status and name of each ``google.rpc`` code: rows of a batch give the code."""
HOSTED = ("google", "urlContext", "url_context", "codeExecution", "code_execution", "file",
          "enterprise")  # fmt: skip
"""Beginnings of the tools that the service runs: what they find is input, too."""


class GenerateContent(Dialect):
    """``/models/…:generateContent``; a streamed call is the same endpoint."""

    endpoint = CALL
    conversation = ("contents",)
    preamble = ("systemInstruction", "system_instruction")
    output_limits = ("maxOutputTokens", "max_output_tokens")
    stateful = ("cachedContent", "cached_content")
    stream_parameters = ()
    holds_answer = ("candidates", "promptFeedback")

    @property
    def ends(self) -> tuple[str, ...]:
        """The ends of the paths of its calls."""
        return (CALL, ":streamGenerateContent")

    def is_at(self, endpoint: str) -> bool:
        """Return whether an endpoint is a model's."""
        return endpoint.endswith(CALL)

    def split(self, path: str, headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Return (path of the base URL, endpoint) of a call, streamed or not."""
        found = PATH.fullmatch(path)
        return (found["base"], f"{found['model']}{CALL}") if found else None

    def streamed(self, path: str, query: Mapping[str, str], body: Json) -> Json | None:
        """Return the way in which a call is streamed: as events, or as a list."""
        if not path.endswith(":streamGenerateContent"):
            return None
        return {"alt": query.get("alt", "json")}

    def model(self, endpoint: str) -> str:
        """Return the model that the path names."""
        return endpoint.removesuffix(CALL).rpartition("/")[2]

    def event_stream(self, body: Json, request_body: Json) -> bytes:
        """Return one event, or a list of one answer."""
        if request_body.get("alt") == "sse":
            return event_stream_of([("", body)])
        return json.dumps([body]).encode()

    def output_limit(self, body: Json) -> int | None:
        """Return the most tokens that an answer may have; None where none is set."""
        return super().output_limit(_config(body)[1])

    def with_output_limit(self, body: Json, tokens: int) -> Json:
        """Return a request that limits the tokens of its answer to ``tokens``."""
        name, config = _config(body)
        return {**body, name: super().with_output_limit(config, tokens)}

    def size(self, body: Json) -> Size:
        """Return how large the input of a request is."""
        size = super().size(body)
        hosted = any(
            str(n).startswith(HOSTED) for tool in mappings(body.get("tools")) for n in tool
        )
        parts = [
            part for one in mappings(body.get("contents")) for part in mappings(one.get("parts"))
        ]
        inline = [_inline(part) for part in parts if _inline(part)]
        images = sum(str(_kind(data)).startswith("image/") for data in inline)
        files = any("fileData" in part or "file_data" in part for part in parts)
        bounded = size.bounded and not hosted and not files and images == len(inline)
        told = sum(len(str(data.get("data", ""))) for data in inline)
        return Size(max(0, size.text - told), images, size.numbers, bounded)

    def last_text(self, body: Json) -> str:
        """Return the text of the last thing that a request says to the model."""
        contents = list(mappings(body.get("contents")))
        return _text(contents[-1]) if contents else ""

    def messages(self, body: Json) -> list[tuple[str, str]]:
        """Return all that a request says to the model, in order: who says it, and the text."""
        said = [(name, body.get(name)) for name in self.preamble]
        said += [(str(one.get("role", "user")), one) for one in mappings(body.get("contents"))]
        return [(who, text) for who, one in said if (text := _text(one))]

    def said(self, body: Json) -> str:
        """Return what all candidates say."""
        return join(_text(one.get("content")) for one in mappings(body.get("candidates")))

    def error_body(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> dict[str, Any]:
        """Return an error as the service gives it."""
        usual = "INTERNAL" if status >= 500 else "INVALID_ARGUMENT"
        name = next((name for http, name in STATUS.values() if http == status), usual)
        return {"error": {"code": status, "message": message, "status": name}}


def status_of(code: Any) -> int:
    """Return the HTTP status of an error's code: of ``google.rpc``, or of HTTP already."""
    number = code if isinstance(code, int) else 13
    return number if number >= 400 else STATUS.get(number, (500, ""))[0]


def _config(body: Json) -> tuple[str, Json]:
    for name in ("generationConfig", "generation_config"):
        if isinstance(config := body.get(name), Mapping):
            return name, config
    return "generationConfig", {}


def _inline(part: Json) -> Json:
    data = part.get("inlineData", part.get("inline_data"))
    return data if isinstance(data, Mapping) else {}


def _kind(data: Json) -> Any:
    return data.get("mimeType", data.get("mime_type"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return join(_texts(content)) if isinstance(content, Mapping) else ""


def _texts(content: Json) -> Iterator[str]:
    parts = content.get("parts")
    for part in mappings(parts if isinstance(parts, list) else [parts or content]):
        if isinstance(text := part.get("text"), str) and not part.get("thought"):
            yield text
        call = part.get("functionCall", part.get("function_call"))
        if isinstance(call, Mapping):
            yield tool_call(call.get("name"), call.get("args"))
        answer = part.get("functionResponse", part.get("function_response"))
        if isinstance(answer, Mapping):
            yield json.dumps(answer.get("response"), ensure_ascii=False)
        if _inline(part):
            yield f"[{_kind(_inline(part))}]"


GENERATE_CONTENT = GenerateContent()
