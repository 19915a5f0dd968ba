"""What the endpoints refuse, with the provider's status, code and parameter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pytest_langasync.sandbox.errors import ApiError
from pytest_langasync.sandbox.messages import VERSIONS, check_message

__all__ = ["check", "check_key", "check_version", "unknown_model"]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


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
        check_message(body, batch, headers)
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
