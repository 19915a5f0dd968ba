"""What the endpoints refuse, with the provider's status, code and parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_langasync.sandbox.errors import ApiError

__all__ = ["check", "check_key", "check_version", "unknown_model"]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

# ---- Anthropic

VERSIONS = ("2023-06-01", "2026-10-21")
_REMOVED = ("temperature", "top_p", "top_k")
"""Gone since the second version."""
_NOT_IN_BATCHES = (
    "cache_hint",
    "context_hint",
    "previous_thread_event_id",
    "speed",
    "store",
    "stream",
    "thread",
)
_KNOWN = frozenset(_REMOVED + _NOT_IN_BATCHES) | {
    "billing_policy",
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "research_preview_2026_02",
    "service_tier",
    "stop_sequences",
    "system",
    "thinking",
    "tool_choice",
    "tools",
}
"""Other parameters need a header that names their beta."""
_MOST_TOKENS = 128_000
_MOST_TOKENS_IN_BATCHES = 300_000
_LONG_OUTPUT = "output-300k-2026-03-24"
"""The beta that allows the latter."""


# ---- what is refused


def check_key(provider: str, headers: Mapping[str, str]) -> None:
    """Accept any key that does not contain ``invalid``; both providers take both header styles.

    Raises:
        ApiError: 401 without a key or with an invalid one.
    """
    names = ("x-api-key", "api-key")  # the latter is Azure's
    key = headers.get("authorization", "").removeprefix("Bearer ")
    key = key or next((headers[name] for name in names if name in headers), "")
    if key.strip() and "invalid" not in key:
        return
    if provider == "anthropic":
        raise ApiError(401, "invalid x-api-key" if key else "x-api-key header is required")
    message = "Incorrect API key provided." if key else "You didn't provide an API key."
    raise ApiError(401, message, code="invalid_api_key")


def unknown_model(model: Any) -> bool:
    """Return whether the sandbox pretends not to know a model of this name."""
    return isinstance(model, str) and "unknown-model" in model


def check(
    endpoint: str, body: Mapping[str, Any], *, batch: bool, headers: Mapping[str, str]
) -> None:
    """Refuse a body that the endpoint would refuse.

    Raises:
        ApiError: with the status of the refusal.
    """
    if endpoint == "/messages":
        _check_message(body, batch, headers)
        if unknown_model(body["model"]):
            raise ApiError(404, f"model: {body['model']}")
        return
    if not body.get("model"):
        raise ApiError(400, "you must provide a model parameter")
    if unknown_model(body["model"]):
        text = f"The model `{body['model']}` does not exist or you do not have access to it."
        raise ApiError(404, text, code="model_not_found")
    if endpoint == "/embeddings":
        _check_embeddings(body)
        return
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("n", 1, 128)):
        _check_range(body, name, low, high)
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        _check_range(body, name, 1, 10_000_000)
    if endpoint == "/responses":
        if not body.get("input") and not body.get("prompt"):
            raise ApiError(400, "Missing required parameter: 'input'.", param="input",
                           code="missing_required_parameter")  # fmt: skip
        _check_format((body.get("text") or {}).get("format"), "text.format")
        return
    _check_chat(body)


def _check_range(body: Mapping[str, Any], name: str, low: float, high: float) -> None:
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = f"Invalid type for '{name}': expected a number, but got something else instead."
        raise ApiError(400, text, param=name, code="invalid_type")
    if not low <= value <= high:
        kind = "integer" if isinstance(low, int) and high > 2 else "decimal"
        side, edge = ("above_max", high) if value > high else ("below_min", low)
        sign = "<=" if value > high else ">="
        text = f"Invalid '{name}': {kind} out of range. Expected a value {sign} {edge}."
        raise ApiError(400, text, param=name, code=f"{kind}_{side}_value")


def _check_chat(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        raise ApiError(400, "Missing required parameter: 'messages'.", param="messages",
                       code="missing_required_parameter")  # fmt: skip
    if not isinstance(messages, list) or not messages:
        text = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise ApiError(400, text, param="messages", code="empty_array")
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            where = f"messages[{index}].role"
            text = f"Invalid value: {role!r}. Supported values are: {', '.join(_ROLES)}."
            raise ApiError(400, text, param=where, code="invalid_value")
    form = body.get("response_format")
    _check_format(form, "response_format")
    if form and form.get("type") == "json_object" and "json" not in str(messages).lower():
        text = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' "
            "of type 'json_object'."
        )
        raise ApiError(400, text, param="messages")


def _check_format(form: Any, param: str) -> None:
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return
    spec = form.get("json_schema", form)
    for key in ("name", "schema"):
        if not spec.get(key):
            where = f"{param}.json_schema.{key}" if "json_schema" in form else f"{param}.{key}"
            text = f"Missing required parameter: '{where}'."
            raise ApiError(400, text, param=where, code="missing_required_parameter")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(spec["name"])):
        text = f"Invalid '{param}.name': string does not match pattern '^[a-zA-Z0-9_-]+$'."
        raise ApiError(400, text, param=f"{param}.name", code="invalid_value")
    if spec.get("strict") and (problem := _strictness(spec["schema"])):
        text = f"Invalid schema for {param} '{spec['name']}': {problem}"
        raise ApiError(400, text, param=param, code="invalid_json_schema")


def _strictness(node: Any) -> str:
    """Return what a strict schema lacks: closed objects whose properties are all required."""
    if isinstance(node, list):
        return next((text for text in map(_strictness, node) if text), "")
    if not isinstance(node, Mapping):
        return ""
    properties = node.get("properties")
    if isinstance(properties, Mapping):
        if node.get("additionalProperties") is not False:
            return "'additionalProperties' is required to be supplied and to be false."
        if set(properties) - set(node.get("required", ())):
            return "'required' is required to be supplied and to include every key in properties."
    nested = (node.get(k) for k in ("items", "anyOf", "prefixItems"))
    groups = (node.get(k) or {} for k in ("properties", "$defs", "definitions"))
    return _strictness([*nested, *(value for group in groups for value in group.values())])


def _check_embeddings(body: Mapping[str, Any]) -> None:
    given = body.get("input")
    if not isinstance(given, str | list) or not given or (isinstance(given, list) and "" in given):
        raise ApiError(400, "'$.input' is invalid. Please check the API reference.")
    if isinstance(given, list) and len(given) > 2048 and not isinstance(given[0], int):
        text = "'$.input' is invalid: at most 2048 inputs are allowed."
        raise ApiError(400, text, param="input")
    _check_range(body, "dimensions", 1, 10_000)


def check_version(headers: Mapping[str, str]) -> None:
    """Refuse a missing or unknown ``anthropic-version``.

    Raises:
        ApiError: 400.
    """
    version = headers.get("anthropic-version")
    if not version:
        raise ApiError(400, "anthropic-version: header is required")
    if version not in VERSIONS:
        raise ApiError(400, f'anthropic-version: "{version}" is not a valid version')


# ---- Anthropic's Messages, in real time and inside a batch


def _check_message(body: Mapping[str, Any], batch: bool, headers: Mapping[str, str]) -> None:
    """Refuse a body that the endpoint would refuse. Raises ``ApiError``."""
    for name in ("model", "max_tokens", "messages"):
        if body.get(name) is None:
            raise ApiError(400, f"{name}: Field required")
    betas = headers.get("anthropic-beta", "")
    new = headers.get("anthropic-version") == VERSIONS[1]
    extra = {"betas"} if betas else set(body) - _KNOWN
    extra |= set(_REMOVED if new else ())
    for name in body:
        if name in extra:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    if batch:
        _check_batched(body)
    _check_limit(body["max_tokens"], batch, betas)
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant"):
            text = "Input should be 'user' or 'assistant'"
            raise ApiError(400, f"messages.{index}.role: {text}")
        if not message.get("content") and index + 1 < len(messages):
            raise ApiError(400, f"messages.{index}: all messages must have non-empty content")
        for problem in _misplaced(message) if new else ():
            raise ApiError(400, f"messages.{index}.content.{problem}")


def _check_batched(body: Mapping[str, Any]) -> None:
    for name in _NOT_IN_BATCHES:
        if body.get(name):
            raise ApiError(400, f"{name}: this parameter is not supported in batches")
    if body.get("research_preview_2026_02") == "active":
        raise ApiError(400, "research_preview_2026_02: not supported in batches")
    policy = body.get("billing_policy")
    if isinstance(policy, Mapping) and policy.get("bill_to") == "user_profile":
        raise ApiError(400, "billing_policy: a batch cannot be billed to a user profile")


def _check_limit(limit: Any, batch: bool, betas: str) -> None:
    least = 1 if batch else 0
    most = _MOST_TOKENS_IN_BATCHES if batch and _LONG_OUTPUT in betas else _MOST_TOKENS
    if not isinstance(limit, int) or limit < least:
        raise ApiError(400, f"max_tokens: Input should be greater than or equal to {least}")
    if limit > most:
        raise ApiError(400, f"max_tokens: {limit} > {most}, the most that any model may be asked")


def _misplaced(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the second version no longer takes inside a message."""
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "document" and message["role"] == "assistant":
            yield f"{index}: 'document' blocks are not permitted in an assistant message"
        if kind == "text" and message["role"] == "user" and block.get("citations"):
            yield f"{index}.citations: Extra inputs are not permitted"
