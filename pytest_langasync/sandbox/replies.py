"""The default model: what the sandbox says when no hook says otherwise."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from pytest_langasync.sandbox.questions import Reply, ReplyRequest, ToolCall
from pytest_langasync.sandbox.schema import instance

__all__ = ["default_reply", "directives", "embedding", "prompt_tokens", "tokens"]

DIRECTIVE = re.compile(r"\[\[(status|expire|missing|duplicate)(?::(\d{3}))?(?:x(\d+))?\]\]")
"""``[[status:429]]``, ``[[expire]]``, ``[[missing]]``, ``[[duplicate]]`` in a prompt; with ``x2``
at the end only for the first two attempts at that body."""

_RATING = re.compile(r"\b(rate|rating|score|grade)\b.*\b(10|ten)\b", re.IGNORECASE | re.DOTALL)
_YES_NO = re.compile(r"\byes\b.{1,20}\bno\b", re.IGNORECASE | re.DOTALL)
_ECHO = 160
_BINARY = 340


def default_reply(request: ReplyRequest) -> Reply:
    """Return the reply of the default model; identical bodies get identical replies."""
    seed = int(request.digest[:12], 16) + request.choice
    tool = request.tool_to_call
    if tool is not None:
        arguments = instance(tool.schema, seed)
        return Reply(tool_calls=(ToolCall(tool.name, arguments),))
    if request.schema is not None:
        return Reply(json.dumps(instance(request.schema, seed), ensure_ascii=False))
    return Reply(_text(request))


def _text(request: ReplyRequest) -> str:
    if _RATING.search(request.prompt):
        return "8"
    if _YES_NO.search(request.prompt):
        return "Yes"
    shown = " ".join(DIRECTIVE.sub("", request.prompt).split())[:_ECHO]
    choice = f" (choice {request.choice + 1})" if request.choice else ""
    return f"Sandbox answer to: {shown}{choice}"


def tokens(text: str) -> int:
    """Return the number of tokens of a text, at four characters each; 0 for an empty one."""
    return math.ceil(len(text) / 4)


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return the input tokens of a request: its messages, tools and schema."""
    names = ("messages", "input", "instructions", "system", "tools", "response_format", "text")
    return max(1, math.ceil(sum(_characters(body[name]) for name in names if name in body) / 4))


def _characters(value: Any) -> int:
    """Count the characters of all strings; what looks like binary data counts as one image."""
    if isinstance(value, str):
        binary = value.startswith("data:") or (len(value) > 4000 and " " not in value)
        return _BINARY if binary else len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + _characters(part) for key, part in value.items())
    if isinstance(value, list):
        return sum(_characters(part) for part in value)
    return 4 if value is not None else 0


def embedding(text: str, dimensions: int, *, as_base64: bool) -> str | list[float]:
    """Return a unit vector made from the text's hash, as floats or as base64 of float32."""
    noise = array("h", hashlib.shake_256(text.encode("utf-8", "replace")).digest(2 * dimensions))
    norm = math.sqrt(sum(x * x for x in noise)) or 1.0
    vector = array("f", [x / norm for x in noise])
    if not as_base64:
        return vector.tolist()
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")


def directives(prompt: str, attempt: int) -> dict[str, str]:
    """Return the directives in a prompt that hold for this attempt: name to value."""
    found = {}
    for name, value, times in DIRECTIVE.findall(prompt) if "[[" in prompt else ():
        if not times or attempt < int(times):
            found[name] = value
    return found
