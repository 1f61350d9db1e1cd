"""Runpod's job API, as its clients use it: run, runsync, status, stream, cancel, retry, purge-queue, health.

tests/acceptance/test_gateway_wire.py has a test for each thing that they rely on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import StreamingResponse

from flashq import errors
from flashq.gateway import schemas
from flashq.gateway.bodies import Answer, read_object, written
from flashq.gateway.call_terms import is_unhurried, options_of
from flashq.gateway.problems import Problem, of_error
from flashq.kinds import STREAMS
from flashq.model.lifecycle import STATUS, TERMINAL_STATUSES, Status
from flashq.model.routes import METHODS
from flashq.store import queries_gateway
from flashq.store.failed import purge_waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashq.gateway.core import Core, Endpoint
    from flashq.gateway.state import State
    from flashq.job import EndpointJob
    from flashq.store.queries_gateway import JobView

router = APIRouter(prefix="/v2/{endpoint}", tags=["jobs"])
DEFAULT_WAIT_MS = 90_000
_STREAM_WAIT_S = 1.0
_BY_HEADERS = "flash"


def _state(request: Request) -> State:
    state: State = request.app.state.gateway
    return state


async def _named(endpoint: str, request: Request) -> str:
    """The endpoint that is meant: client 2.0 calls one of an app by the name `flash`, and says in headers which."""
    name = request.headers.get("x-flash-endpoint", "") if endpoint == _BY_HEADERS else ""
    if not name:
        return endpoint
    environment = request.headers.get("x-flash-environment", "")
    deployed = f"{name}-{environment}"  # as `flashq deploy --env` calls it
    try:
        await _state(request).core.endpoint(deployed)
    except errors.EndpointNotFound:
        return name
    return deployed


# -- calls -------------------------------------------------------------------------------------------


@router.post("/run", openapi_extra=schemas.body(), responses=schemas.answers(schemas.ACCEPTED))
async def run(endpoint: str, request: Request, method: str = "") -> Answer:
    """Submit a job, and return at once."""
    job, _ = await _submit(request, endpoint, method)
    return Answer({"id": job.id, "status": Status.IN_QUEUE})


@router.post("/runsync", openapi_extra=schemas.body(), responses=schemas.answers(schemas.JOB))
async def runsync(
    endpoint: str,
    request: Request,
    method: str = "",
    wait: Annotated[int, Query(ge=1000, le=300_000, description="milliseconds")] = DEFAULT_WAIT_MS,
) -> Answer:
    """Submit a job, and return what it ended with; or, after `wait`, its id.

    Of a function that yields, the values are the output, as a list.
    """
    core = _state(request).core
    job, streams = await _submit(request, endpoint, method)
    pieces: list[dict[str, Any]] = []
    ended = asyncio.ensure_future(_until_end(request, job, pieces if streams else None))
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({ended, gone}, timeout=wait / 1000, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        over = not ended.cancel()
    if over:
        ended.result()
    view = await core.job(job.id)
    if view.status not in TERMINAL_STATUSES:
        return Answer({"id": job.id, "status": view.status})
    said = said_of(core, view)
    if streams and over and said["status"] == Status.COMPLETED:
        said["output"] = pieces
    return Answer(said)


async def _until_end(request: Request, job: EndpointJob[Any], pieces: list[dict[str, Any]] | None) -> None:
    """Until the job has ended, as the broker pushes it; meanwhile what it yields is added to `pieces`."""
    ended = job._call.ended  # noqa: SLF001 — client and job are one part
    if pieces is not None:
        async for piece in _state(request).streams.until_end(job.id, job.endpoint, ended):
            pieces.append({"output": piece.value})
    await ended.until_done()
    if ended.error is not None:
        raise ended.error


async def until_gone(request: Request) -> None:
    """Until the caller has: nobody is there any more to wait for."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _submit(request: Request, name: str, method: str) -> tuple[EndpointJob[Any], bool]:
    """The job, and whether it yields its values."""
    state = _state(request)
    name = await _named(name, request)
    await state.access.check(request, name)
    body = await read_object(request)
    if "input" not in body:
        raise Problem(422, "is missing", field="input")
    called = await state.core.endpoint(name)
    options = options_of(body, own_timeout_ms=called.current.spec.execution_timeout_ms)
    webhook = state.webhooks.checked(body.get("webhook"))
    given = body["input"]
    if called.current.targets and not method and isinstance(given, dict):
        method = _method_in(called, given)
        given = {key: value for key, value in given.items() if key != "method"} if method else given
    target = called.target(method)
    size = len(await request.body())
    arguments = await state.core.arguments(called.signature(target), given, size)
    job = await state.core.submit(called, target, arguments, options, unhurried=is_unhurried(body))
    if webhook is not None:
        await state.webhooks.keep(webhook, job)
    return job, called.current.kind(target) in STREAMS


def _method_in(called: Endpoint, given: dict[str, Any]) -> str:
    """Of a class with several methods, the one that the input names."""
    named = given.get("method")
    several = len(called.current.targets) > 1
    return named if several and isinstance(named, str) and named in called.current.targets else ""


# -- jobs --------------------------------------------------------------------------------------------


async def _view(request: Request, endpoint: str, job: str) -> JobView:
    """A job of this endpoint. Raises: Problem, JobNotFound, ResultExpired."""
    state = _state(request)
    await state.access.check(request, endpoint)
    if not job.startswith(f"{endpoint}-"):
        raise Problem(404, f"endpoint {endpoint} has no job of this id")
    view = await state.core.ask(queries_gateway.job, job)
    if view.endpoint != endpoint:
        raise Problem(404, f"endpoint {endpoint} has no job of this id")
    return view


def said_of(core: Core, view: JobView) -> dict[str, Any]:
    """What is said of a job; of one that ended, with its value or why there is none."""
    said: dict[str, Any] = {"id": view.id, "status": view.status}
    if view.delay_ms is not None:
        said["delayTime"] = view.delay_ms
    if view.worker is not None:
        said["workerId"] = view.worker
    if view.ending is None:
        return said | ({"output": view.progress} if view.progress is not None else {})
    if view.execution_ms is not None:
        said["executionTime"] = view.execution_ms
    try:
        value = core.value(view.id, view.endpoint, view.ending)
    except errors.ResultExpired as error:
        return said | {"error": str(error)}
    if value.error:
        return said | {"error": value.error}
    if value.foreign:
        return said | {"output": None, "note": "the value is a Python object: it was called from Python"}
    return said | {"output": value.output}


@router.get("/status/{job}", responses=schemas.answers(schemas.JOB))
async def status(endpoint: str, job: str, request: Request) -> Answer:
    """How a job stands; with its output once it completed, and an error where it failed."""
    endpoint = await _named(endpoint, request)
    view = await _view(request, endpoint, job)
    return Answer(said_of(_state(request).core, view))


@router.get("/stream/{job}", responses=schemas.answers(schemas.STREAM))
async def stream(endpoint: str, job: str, request: Request) -> Any:
    """What a function yielded since it was last asked: each value once.

    With `Accept: text/event-stream`, all that it yields as it comes, as server-sent events `chunk`, and at last `end`.
    """
    state = _state(request)
    endpoint = await _named(endpoint, request)
    view = await _view(request, endpoint, job)
    if "text/event-stream" in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            events(state, endpoint, job), media_type="text/event-stream", headers=headers
        )
    over = view.status in TERMINAL_STATUSES
    pieces = await state.streams.take(job, endpoint, 0.0 if over else _STREAM_WAIT_S)
    if not over:
        view = await state.core.ask(queries_gateway.job, job)
    said: dict[str, Any] = {"status": view.status}
    if view.status is Status.COMPLETED:  # client 2.0 does not ask again after this
        while more := await state.streams.take(job, endpoint, 0.0):
            pieces += more
    elif view.status in TERMINAL_STATUSES and pieces:  # and it takes nothing that comes with a failure
        said["status"] = Status.IN_PROGRESS
    elif view.status in TERMINAL_STATUSES:
        # Client 1.12 does not know that CANCELLED is final, and would ask for ever.
        shown = Status.FAILED if view.status is Status.CANCELLED else view.status
        said = {"status": shown, "error": said_of(state.core, view).get("error", "")}
    return Answer({**said, "stream": [{"output": piece.value} for piece in pieces]})


async def events(state: State, endpoint: str, job: str) -> AsyncIterator[bytes]:
    """All that a job yields, as server-sent events; at last `end`, or `error`."""
    call = state.core.followed(job)
    try:
        async for piece in state.streams.until_end(job, endpoint, call.ended):
            yield _event("chunk", {"output": piece.value}, piece.id)
        view = await state.core.ask(queries_gateway.job, job)
        yield _event("end", said_of(state.core, view))
    except errors.FlashqError as error:  # the answer has begun: its status cannot say it any more
        yield _event("error", of_error(error).body())


def _event(kind: str, data: dict[str, Any], number: str = "") -> bytes:
    head = f"event: {kind}\n" + (f"id: {number}\n" if number else "")
    return head.encode() + b"data: " + written(data) + b"\n\n"


@router.post("/cancel/{job}", responses=schemas.answers(schemas.ACCEPTED))
async def cancel(endpoint: str, job: str, request: Request) -> Answer:
    """Stop a job. One that has ended stays as it ended."""
    state = _state(request)
    endpoint = await _named(endpoint, request)
    await _view(request, endpoint, job)
    verdict = await state.core.client.ask(state.core.client.transitions.cancel(job), lambda verdict: verdict)
    if verdict == "unknown":
        raise Problem(404, f"endpoint {endpoint} has no job of this id")
    ended = next((shown for kept, shown in STATUS.items() if kept == verdict), Status.CANCELLED)
    return Answer({"id": job, "status": ended})


@router.post("/retry/{job}", responses=schemas.answers(schemas.ACCEPTED))
async def retry(endpoint: str, job: str, request: Request) -> Answer:
    """Begin a job anew that failed or timed out: under the same id, with the same input."""
    state = _state(request)
    endpoint = await _named(endpoint, request)
    view = await _view(request, endpoint, job)
    if view.status not in (Status.FAILED, Status.TIMED_OUT):
        raise Problem(400, f"job {job} is {view.status}: only what failed or timed out can be retried")
    client = state.core.client
    verdict = await client.ask(client.transitions.requeue(job), lambda verdict: verdict)
    if verdict != "ok":
        raise Problem(409, f"job {job} is {verdict}: something else was done with it meanwhile")
    return Answer({"id": job, "status": Status.IN_QUEUE})


# -- the endpoint ------------------------------------------------------------------------------------


@router.post("/purge-queue", responses=schemas.answers(schemas.PURGED))
async def purge_queue(endpoint: str, request: Request) -> Answer:
    """Cancel all that waits."""
    state = _state(request)
    endpoint = await _named(endpoint, request)
    await state.access.check(request, endpoint)
    removed = await state.core.ask(purge_waiting, endpoint)
    return Answer({"removed": removed, "status": "completed"})


@router.get("/health", responses=schemas.answers(schemas.HEALTH))
async def health(endpoint: str, request: Request) -> Answer:
    """Its jobs and its workers, counted by state."""
    state = _state(request)
    endpoint = await _named(endpoint, request)
    await state.access.check(request, endpoint)
    found = await state.core.ask(queries_gateway.health, endpoint)
    workers = found.workers
    return Answer(
        {
            "jobs": {
                "completed": found.completed,
                "failed": found.failed,
                "inProgress": found.in_progress,
                "inQueue": found.in_queue,
                "retried": found.retried,
            },
            "workers": {
                "idle": workers["idle"],
                "initializing": workers["initializing"],
                "ready": workers["idle"] + workers["running"],
                "running": workers["running"],
                "throttled": workers["throttled"],
                "unhealthy": workers["unhealthy"],
            },
        }
    )


@router.api_route("/{rest:path}", methods=list(METHODS), include_in_schema=False)
async def other(endpoint: str, rest: str, request: Request) -> Answer:
    """What is none of these is no route of an endpoint's either."""
    allowed = {
        method
        for route in router.routes
        if isinstance(route, APIRoute)
        and route.include_in_schema
        and route.path_regex.match(request.url.path)
        for method in route.methods or ()
    }
    if not allowed:
        raise Problem(404, "there is no such route: see /docs")
    listed = ", ".join(sorted(allowed))
    raise Problem(405, f"{listed} alone", headers={"Allow": listed})
