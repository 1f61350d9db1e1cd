"""`/{endpoint}/{path}`: requests to endpoints with routes, and to the servers of images.

A request is a job that its caller waits for: where the caller goes away first, the job is cancelled. What the arguments
are is judged by the function's signature; what a server of an image makes of a request is its own affair.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import Response, StreamingResponse

from flashq.gateway.bodies import Answer, read_json, written
from flashq.gateway.checked_input import Arguments
from flashq.gateway.job_routes import events, said_of, until_gone
from flashq.gateway.problems import Problem
from flashq.kinds import STREAMS
from flashq.model import http_request, routes
from flashq.model.lifecycle import Status
from flashq.model.spec import CallOptions
from flashq.request import IMAGE_TARGETS, segments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from flashq.gateway.core import Endpoint
    from flashq.gateway.state import State
    from flashq.gateway.streams import Piece
    from flashq.job import EndpointJob

R = TypeVar("R")
router = APIRouter(include_in_schema=False)
DEFAULT_TIMEOUT_S = 300.0
"""Of requests to endpoints that have none of their own."""
_STATUS = {Status.TIMED_OUT: 504, Status.CANCELLED: 503}
_NOT_PASSED_ON = frozenset(
    {"authorization", "cookie", "content-length"}
)  # the key is ours; the length is made anew
_ENDED = "X-Flashq-Job"
_SANDBOX = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
"""What an image serves is no page of the gateway's: its scripts reach neither the dashboard's key nor endpoints."""


@router.api_route("/{endpoint}/{path:path}", methods=list(routes.METHODS))
async def answer(endpoint: str, path: str, request: Request) -> Response:
    """Call what is behind the route, and answer with what comes of it."""
    state: State = request.app.state.gateway
    await state.access.check(request, endpoint)
    called = await state.core.endpoint(endpoint)
    if tuple(called.current.targets) == IMAGE_TARGETS:
        return await _image(state, called, request)
    parts = segments(request.scope["raw_path"].decode("ascii").partition("?")[0])[1:]
    found = routes.find(called.current.targets, request.method, parts)
    if found is None:
        methods = routes.allowed(called.current.targets, parts)
        if methods:
            raise Problem(405, f"{', '.join(methods)} alone", headers={"Allow": ", ".join(methods)})
        raise Problem(
            404, f"endpoint {endpoint} has no route /{path}: `flashq endpoints {endpoint}` lists them"
        )
    route, names = found
    signature = called.signature(route.target)
    body = await read_json(request) if route.method in routes.WITH_BODY else http_request.NO_BODY
    query = request.query_params.multi_items()
    kwargs = http_request.arguments(route, signature.schema or {}, names, query, body)
    size = 0 if body is http_request.NO_BODY else len(await request.body())
    arguments = await state.core.arguments(signature, kwargs, size, "request")
    job = await _submitted(state, called, route.target, arguments)
    if called.current.kind(route.target) in STREAMS:
        return await _stream(state, request, job)
    said = await _said(state, request, job)
    return Answer(said["output"], headers={_ENDED: job.id})


async def _submitted(state: State, called: Endpoint, target: str, arguments: Arguments) -> EndpointJob[Any]:
    own = called.current.spec.execution_timeout_ms
    return await state.core.submit(
        called, target, arguments, CallOptions(**({} if own else {"timeout_s": DEFAULT_TIMEOUT_S}))
    )


async def _said(state: State, request: Request, job: EndpointJob[Any]) -> dict[str, Any]:
    """What the job completed with. Raises Problem where it did not."""
    await _unless_gone(state, request, job, _ended(job))
    return await _completed(state, job)


async def _completed(state: State, job: EndpointJob[Any]) -> dict[str, Any]:
    said = said_of(state.core, await state.core.job(job.id))
    if said["status"] != Status.COMPLETED or "output" not in said:
        raise _problem(said)
    return said


async def _unless_gone(
    state: State, request: Request, job: EndpointJob[Any], wanted: Coroutine[Any, Any, R]
) -> R:
    """What is waited for. Where the caller goes away first, the job is cancelled, and nobody reads the answer."""
    waited = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({waited, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waited.done():
            _cancel(state, job)
            gone.result()
            raise Problem(499, "the caller has gone")
        return waited.result()
    finally:
        waited.cancel()
        gone.cancel()


async def _ended(job: EndpointJob[Any]) -> None:
    ended = job._call.ended  # noqa: SLF001 — client and job are one part
    await ended.until_done()
    if ended.error is not None:
        raise ended.error


def _cancel(state: State, job: EndpointJob[Any]) -> None:
    client = state.core.client
    client.ask(client.transitions.cancel(job.id), lambda verdict: verdict)


def _problem(said: dict[str, Any]) -> Problem:
    """Of a job that gave no value."""
    status = _STATUS.get(said["status"], 500)
    return Problem(status, said.get("error") or f"the job is {said['status']}", headers={_ENDED: said["id"]})


# -- what comes piece by piece -------------------------------------------------------------------------


async def _stream(state: State, request: Request, job: EndpointJob[Any]) -> Response:
    """Values as server-sent events where they are asked for; else text as it is, other values a line of JSON each."""
    headers = {
        _ENDED: job.id,
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    }
    if "text/event-stream" in request.headers.get("accept", ""):
        body = _cancelling(state, job, events(state, job.endpoint, job.id))
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)
    pieces = _pieces(state, job)
    first = await _unless_gone(state, request, job, _next(pieces))
    if first is None:
        return Response(headers=headers)
    text = isinstance(first.value, str)
    body = _cancelling(state, job, _written(first, pieces, text=text))
    kind = "text/plain; charset=utf-8" if text else "application/x-ndjson"
    return StreamingResponse(body, media_type=kind, headers=headers)


async def _pieces(state: State, job: EndpointJob[Any]) -> AsyncIterator[Piece]:
    """What a job yields. Raises Problem where it fails."""
    ended = job._call.ended  # noqa: SLF001
    async for piece in state.streams.until_end(job.id, job.endpoint, ended):
        yield piece
    await _ended(job)
    await _completed(state, job)


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


async def _written(first: Piece, rest: AsyncIterator[Piece], *, text: bool) -> AsyncIterator[bytes]:
    def line(value: Any) -> bytes:
        if text and isinstance(value, str):
            return value.encode("utf-8", "backslashreplace")
        return written(value) + b"\n"

    yield line(first.value)
    async for piece in rest:
        yield line(piece.value)


async def _cancelling(
    state: State, job: EndpointJob[Any], pieces: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The pieces; where nobody reads to the end, the job is cancelled.

    What fails midway breaks the answer off: its status has been sent.
    """
    whole = False
    try:
        async for piece in pieces:
            yield piece
        whole = True
    finally:
        if not whole:
            _cancel(state, job)


# -- images ------------------------------------------------------------------------------------------


async def _image(state: State, called: Endpoint, request: Request) -> Response:
    """Pass a request on, and its answer back; piece by piece where the caller asks for that."""
    raw = await request.body()
    query = request.scope["query_string"].decode("latin-1")
    path = (
        "/" + request.scope["raw_path"].decode("ascii").partition("?")[0].removeprefix("/").partition("/")[2]
    )
    headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED_ON}
    given = {
        "method": request.method,
        "path": f"{path}?{query}" if query else path,
        "headers": headers,
        "body": base64.b64encode(raw).decode(),
    }
    target = "stream" if _wants_pieces(request, raw) else "request"
    job = await _submitted(state, called, target, Arguments([], given))
    if target == "request":
        said = await _said(state, request, job)
        told = said["output"]
        return Response(base64.b64decode(told["body"]), told["status"], _answered(told, job))
    pieces = _pieces(state, job)
    head = await _unless_gone(state, request, job, _next(pieces))
    if head is None:
        raise Problem(502, "the image's server said nothing")
    told = head.value
    body = _cancelling(state, job, _decoded(pieces))
    return StreamingResponse(body, told["status"], _answered(told, job))


def _wants_pieces(request: Request, raw: bytes) -> bool:
    """As clients of OpenAI's API say it, or as event sources do."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return True
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(raw) if raw else None
        return isinstance(said, dict) and said.get("stream") is True
    return False


def _answered(told: dict[str, Any], job: EndpointJob[Any]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in told["headers"].items()
        if name not in ("content-length", "date", "server")
    }
    policies = [kept.pop("content-security-policy", ""), _SANDBOX]
    return {**kept, "content-security-policy": ", ".join(filter(None, policies)), _ENDED: job.id}


async def _decoded(pieces: AsyncIterator[Piece]) -> AsyncIterator[Any]:
    async for piece in pieces:
        yield base64.b64decode(piece.value)
