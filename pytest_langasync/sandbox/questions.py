"""What was asked, in one shape for every endpoint: the view that a reply hook gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_langasync.models import digest
from pytest_langasync.providers.dialects import dialect_of
from pytest_langasync.sandbox.schema import JSON_OBJECT

__all__ = ["Reply", "ReplyRequest", "Tool", "ToolCall", "body_digest", "read_request"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; ``schema`` is the JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the assistant asks for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the assistant says: text, tool calls, or a refusal."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""

    def __post_init__(self) -> None:
        """Complain where it is made, not where it is sent."""
        if not isinstance(self.text, str) or not isinstance(self.refusal, str):
            raise TypeError("Reply: text and refusal must be strings")
        for call in self.tool_calls:
            json.dumps([call.name, dict(call.arguments)])


@dataclass(frozen=True)
class ReplyRequest:
    """One request to the sandbox's model.

    ``endpoint`` is ``/chat/completions``, ``/responses``, ``/embeddings`` or ``/messages``;
    ``prompt`` the text of the last user message; ``attempt`` counts how often this identical body
    was asked for before; ``choice`` is the index among ``n`` choices. ``answered`` is true when a
    tool's result follows the last user message; ``schema`` is set when JSON was asked for.
    """

    provider: str
    endpoint: str
    model: str
    prompt: str
    body: Mapping[str, Any] = field(repr=False)
    attempt: int = 0
    choice: int = 0
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``none``, ``auto``, ``required``, or ``named`` (then ``tool_name`` says which)."""
    tool_name: str = ""
    answered: bool = False
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    max_tokens: int | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of the body, 40 hex digits; a streamed request has its plain twin's."""
        return body_digest(self.body)

    @property
    def seed(self) -> int:
        """A number for random choices, different for each attempt and each choice."""
        return int(digest([self.digest, self.attempt, self.choice])[:12], 16)

    @property
    def tool_to_call(self) -> Tool | None:
        """The tool that has to be called now, if any."""
        if self.tool_choice == "named":
            known = next((tool for tool in self.tools if tool.name == self.tool_name), None)
            return known or Tool(self.tool_name, {"type": "object"})
        wanted = self.tool_choice == "required" or (
            self.tool_choice == "auto" and not self.answered
        )
        return self.tools[0] if wanted and self.tools else None


def read_request(
    provider: str, endpoint: str, body: Mapping[str, Any], attempt: int = 0
) -> ReplyRequest:
    """Return the normalised view of a body that passed the endpoint's checks."""
    prompt, answered = _last_user_text(body)
    choice, name = _tool_choice(body.get("tool_choice"))
    return ReplyRequest(
        provider=provider,
        endpoint=endpoint,
        model=str(body.get("model", "")),
        prompt=prompt,
        body=body,
        attempt=attempt,
        tools=tuple(_tools(body.get("tools") or ())),
        tool_choice=choice,
        tool_name=name,
        answered=answered,
        schema=_schema(body),
        max_tokens=dialect_of(endpoint).output_limit(body),
    )


def body_digest(body: Mapping[str, Any]) -> str:
    """Return the digest of a body without ``stream`` and its companion."""
    return digest({k: v for k, v in body.items() if k not in ("stream", "stream_options")})


def text_of(content: Any) -> str:
    """Return the text of a message's content, be it a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (p.get("text") if isinstance(p, Mapping) else p for p in content)
    return "\n".join(part for part in parts if isinstance(part, str))


def _last_user_text(body: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the last user text, and whether a tool's result came with or after it."""
    items = body.get("messages", body.get("input", ""))
    if not isinstance(items, list):
        return str(items), False
    prompt, answered = "", False
    for item in items:
        if isinstance(item, str):
            prompt = item
        if not isinstance(item, Mapping):
            continue
        text = text_of(item.get("content"))
        if item.get("role") == "user" and text:
            prompt, answered = text, False
        answered = answered or _is_tool_result(item)
    return prompt, answered


def _is_tool_result(item: Mapping[str, Any]) -> bool:
    if item.get("role") == "tool" or item.get("type") == "function_call_output":
        return True
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return any(isinstance(p, Mapping) and p.get("type") == "tool_result" for p in parts)


def _tools(tools: Any) -> list[Tool]:
    found = []
    for tool in tools:
        spec = tool.get("function", tool)
        schema = spec.get("parameters", spec.get("input_schema"))
        if "name" in spec and (schema is not None or tool.get("type") == "function"):
            found.append(Tool(spec["name"], schema or {"type": "object"}))
    return found


def _tool_choice(choice: Any) -> tuple[str, str]:
    if not isinstance(choice, Mapping):
        return (choice, "") if choice in ("none", "required") else ("auto", "")
    name = choice.get("function", choice).get("name")
    if name:
        return "named", str(name)
    words = {"any": "required", "required": "required", "none": "none"}
    return words.get(choice.get("type", ""), "auto"), ""


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema that the text must obey: response_format, text.format or output_config."""
    spec = body.get("response_format") or body.get("output_format")
    for holder in ("text", "output_config"):
        if not spec and isinstance(body.get(holder), Mapping):
            spec = body[holder].get("format")
    if not isinstance(spec, Mapping):
        return None
    if spec.get("type") == "json_object":
        return JSON_OBJECT
    schema = spec.get("json_schema", spec)
    return schema.get("schema") if spec.get("type") == "json_schema" else None
