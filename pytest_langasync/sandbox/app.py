"""The ASGI application: routes to handlers, and plain data in and out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from pytest_langasync.sandbox import anthropic_api, openai_api, small_calls
from pytest_langasync.sandbox.batches import Batches
from pytest_langasync.sandbox.checks import check_key, check_version
from pytest_langasync.sandbox.errors import ApiError, error_body, stamped
from pytest_langasync.sandbox.exchange import Exchange, Upload, Wire
from pytest_langasync.sandbox.model import Model
from pytest_langasync.sandbox.realtime import realtime
from pytest_langasync.sandbox.state import State, dumps
from pytest_langasync.sandbox.trouble import Troublemaker, provider_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

__all__ = ["build_app"]

Handler = Callable[[Exchange], Wire]
Endpoint = Callable[["Request"], Awaitable["Response"]]

_REALTIME: tuple[tuple[str, str], ...] = (
    ("openai", "/chat/completions"),
    ("openai", "/responses"),
    ("openai", "/embeddings"),
    ("anthropic", "/messages"),
)
_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/files", openai_api.upload_file),
    ("GET", "/files", openai_api.list_files),
    ("GET", "/files/{id}", openai_api.get_file),
    ("DELETE", "/files/{id}", openai_api.delete_file),
    ("GET", "/files/{id}/content", openai_api.file_content),
    ("POST", "/batches", openai_api.create_batch),
    ("GET", "/batches", openai_api.list_batches),
    ("GET", "/batches/{id}", openai_api.get_batch),
    ("POST", "/batches/{id}/cancel", openai_api.cancel_batch),
    ("POST", "/messages/batches", anthropic_api.create),
    ("GET", "/messages/batches", anthropic_api.list_all),
    ("GET", "/messages/batches/{id}", anthropic_api.get),
    ("DELETE", "/messages/batches/{id}", anthropic_api.delete),
    ("POST", "/messages/batches/{id}/cancel", anthropic_api.cancel),
    ("GET", "/messages/batches/{id}/results", anthropic_api.results),
    ("POST", "/messages/count_tokens", small_calls.count_tokens),
    ("GET", "/models", small_calls.list_models),
    ("GET", "/models/{id:path}", small_calls.get_model),
)


def build_app(state: State, model: Model, batches: Batches) -> ASGIApp:
    """Return the application, faults and log included."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    def endpoint(handler: Handler, instant: bool = False) -> Endpoint:
        return _endpoint(handler, state, model, batches, instant)

    routes = [Route(f"/v1{path}", endpoint(call), methods=[verb]) for verb, path, call in _ROUTES]
    for provider, path in _REALTIME:
        call = endpoint(realtime(provider, path), model.instant)
        routes.append(Route(f"/v1{path}", call, methods=["POST"]))
    for verb, name, call in _controls(state):
        routes.append(Route(f"/_sandbox/{name}", call, methods=[verb]))
    handlers: Any = {404: _no_such_path, 405: _no_such_path}
    return Troublemaker(Starlette(routes=routes, exception_handlers=handlers), state)


def _endpoint(
    handler: Handler, state: State, model: Model, batches: Batches, instant: bool
) -> Endpoint:
    """Return the ASGI side of a handler; only an instant one runs on the event loop."""
    from starlette.concurrency import run_in_threadpool

    async def endpoint(request: Request) -> Response:
        provider = provider_of(request.url.path)
        try:
            check_key(provider, request.headers)
            if provider == "anthropic":
                check_version(request.headers)
            exchange = await _exchange(request, state, model, batches)
            answer = handler(exchange) if instant else await run_in_threadpool(handler, exchange)
        except ApiError as error:
            wait = {"retry-after": "1"} if error.status == 429 else {}
            answer = Wire(error.body(provider), error.status, headers=wait)
        return _response(answer, provider)

    return endpoint


async def _exchange(request: Request, state: State, model: Model, batches: Batches) -> Exchange:
    upload, data = None, b""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        upload = await _upload(request)
    else:
        data = await request.body()
    return Exchange(
        state=state,
        model=model,
        batches=batches,
        headers=dict(request.headers),
        path=request.path_params,
        query=dict(request.query_params),
        origin=str(request.base_url).rstrip("/"),
        data=data,
        upload=upload,
    )


async def _upload(request: Request) -> Upload:
    from starlette.datastructures import UploadFile

    async with request.form() as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        file = form.get("file")
        if not isinstance(file, UploadFile):
            return Upload(fields, "", b"")
        return Upload(fields, file.filename or "", await file.read())


def _response(answer: Wire, provider: str) -> Response:
    from starlette.responses import FileResponse, Response, StreamingResponse

    stamp, body = stamped(provider, answer.body)
    headers = {**stamp, **answer.headers}
    if answer.stream is not None:
        source = _each(answer.stream)
        return StreamingResponse(source, headers=headers, media_type="text/event-stream")
    if answer.file is not None:
        return FileResponse(answer.file, headers=headers, media_type=answer.media_type)
    return Response(dumps(body), answer.status, headers, "application/json")


async def _each(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _no_such_path(request: Request, error: Exception) -> Response:
    provider, path = provider_of(request.url.path), request.url.path
    text = f"The sandbox does not serve {request.method} {path}; nothing was sent to a provider."
    body = error_body(provider, 404, text)
    return _response(Wire(body, 404, {"x-should-retry": "false"}), provider)


def _controls(state: State) -> tuple[tuple[str, str, Endpoint], ...]:
    """Return the sandbox's own endpoints; they need no key."""
    from starlette.responses import Response

    def reply(value: Any, status: int = 200) -> Response:
        return Response(dumps(value), status, media_type="application/json")

    async def ledger(request: Request) -> Response:
        return reply(state.ledger())

    async def requests(request: Request) -> Response:
        log = state.exchanges()
        return reply({"counts": Counter(f"{e['method']} {e['path']}" for e in log), "log": log})

    async def faults(request: Request) -> Response:
        try:
            state.set_faults(await request.json())
        except (ValueError, TypeError, AttributeError) as error:
            return reply({"error": str(error)}, 400)
        return reply({})

    async def reset(request: Request) -> Response:
        state.reset()
        return reply({})

    return (
        ("GET", "ledger", ledger),
        ("GET", "requests", requests),
        ("POST", "faults", faults),
        ("POST", "reset", reset),
    )
