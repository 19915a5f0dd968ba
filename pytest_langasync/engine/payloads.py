"""Bodies that are no JSON: how they are told apart, kept in a row of JSON, and given back."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from email.parser import BytesParser
from typing import Any

from pytest_langasync.interception.wire import Reply
from pytest_langasync.providers.dialects.base import RAW

__all__ = ["answer_body", "reply_body", "request_body"]

JSON = "application/json"


def request_body(content: bytes, content_type: str) -> dict[str, Any]:
    """Return the body of a request as what identifies it and what people read.

    Files of a form are named by their digest: the boundary between its parts differs each time,
    and an upload may be large.
    """
    if content_type.startswith("multipart/"):
        form = _form(content, content_type)
        models = [one["value"] for one in form if one["name"] == "model" and "value" in one]
        return {"model": models[0] if models else "", "form": form}
    try:
        body = json.loads(content) if content else {}
    except ValueError:
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return body if isinstance(body, dict) else {"json": body}


def answer_body(came: Reply) -> Any:
    """Return the body of an answer as it is kept: as JSON where it is some, else byte for byte."""
    kind = came.headers.get("content-type", "")
    if kind.partition(";")[0].strip() in ("", JSON) or kind.partition(";")[0].endswith("+json"):
        try:
            return json.loads(came.content)
        except ValueError:
            pass
    try:
        text = came.content.decode("utf-8")
    except UnicodeDecodeError:
        return {RAW: {"type": kind, "base64": base64.b64encode(came.content).decode("ascii")}}
    return {RAW: {"type": kind, "text": text}}


def reply_body(body: Any) -> tuple[str, bytes]:
    """Return (content type, bytes) of an answer's body; what was kept as it came is as it came."""
    raw = body.get(RAW) if isinstance(body, Mapping) else None
    if not isinstance(raw, Mapping):
        text = json.dumps(body, ensure_ascii=False)
        return JSON, text.encode("utf-8", "surrogatepass")
    if "base64" in raw:
        content = base64.b64decode(str(raw["base64"]))
    else:
        content = str(raw.get("text", "")).encode("utf-8", "surrogatepass")
    return str(raw.get("type", "")), content


def _form(content: bytes, content_type: str) -> list[dict[str, Any]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    fields = []
    for part in BytesParser().parsebytes(head + content).walk():
        if part.is_multipart():
            continue
        value = part.get_payload(decode=True)
        data = value if isinstance(value, bytes) else b""
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is None:
            fields.append({"name": name, "value": data.decode("utf-8", "replace")})
        else:
            digest = hashlib.sha256(data).hexdigest()
            fields.append({"name": name, "file": part.get_filename(), "sha256": digest})
    return fields
