"""Calls of a provider's hosted tools, which cost a fee each beside the tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

__all__ = ["UNITS", "charged_calls"]

UNITS = {"web_search_call": "web_searches", "file_search_call": "storage_searches"}
"""What ``genai-prices`` calls them."""
CHARGED = frozenset({*UNITS, "code_interpreter_call", "image_generation_call"})
"""Items of an answer that cost more than the tokens in its usage."""


def charged_calls(body: Mapping[str, Any]) -> Counter[str]:
    """Return how often an answer used each tool that costs a fee, by the type of its item.

    >>> charged_calls({"output": [{"type": "web_search_call", "action": {"type": "search"}}]})
    Counter({'web_search_call': 1})
    """
    found: Counter[str] = Counter()
    output = body.get("output")
    for item in output if isinstance(output, list) else ():
        if isinstance(item, Mapping) and item.get("type") in CHARGED and not _is_free(item):
            found[str(item["type"])] += 1
    usage = body.get("usage")
    used = usage.get("server_tool_use") if isinstance(usage, Mapping) else None
    searches = used.get("web_search_requests") if isinstance(used, Mapping) else None
    if isinstance(searches, int) and searches > 0:
        found["web_search_call"] += searches
    model = body.get("model")
    if isinstance(model, str) and "choices" in body and _always_searches(model):
        found["web_search_call"] += 1
    return found


def _is_free(item: Mapping[str, Any]) -> bool:
    """Return whether a web search only opened a page, or searched in one."""
    action = item.get("action")
    kind = action.get("type") if isinstance(action, Mapping) else None
    return item["type"] == "web_search_call" and kind not in (None, "search")


def _always_searches(model: str) -> bool:
    """Return whether a model of chat completions searches the web for each answer."""
    return "-search-preview" in model or "-search-api" in model
