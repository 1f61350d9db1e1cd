"""The dashboard: a page at `/`, and what it asks for, below `/-/` (where no endpoint's name can lead).

Looking needs what any request needs; acting needs an API key, whoever asks. The key comes in a header that the page's
own script sets, never in a cookie, so that no other page can have a browser send it. All that is said of endpoints and
jobs is data to the page: it puts it into text nodes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import Response

from flashq.errors import FlashqError, JobNotFound
from flashq.gateway.bodies import Answer
from flashq.gateway.problems import Problem
from flashq.model.job_id import endpoint_of
from flashq.model.lifecycle import Status
from flashq.store import queries_jobs, queries_why
from flashq.store.failed import purge_waiting

if TYPE_CHECKING:
    from flashq.gateway.state import State
    from flashq.model.causes import Why
    from flashq.store.api_keys import ApiKey
    from flashq.store.broker import Broker

router = APIRouter(include_in_schema=False)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILES = {"dashboard.js": "text/javascript", "dashboard.css": "text/css"}
_MOST_JOBS = 200
_EXPLAINED = 20
"""Of the jobs that wait, the first so many are told why: each costs the broker some questions."""


def _state(request: Request) -> State:
    state: State = request.app.state.gateway
    return state


@router.get("/")
async def page() -> Response:
    """The page itself: it holds nothing of the deployment."""
    return _file("index.html", "text/html")


@router.get("/-/{name}", include_in_schema=False)
async def part(name: str) -> Response:
    """What the page is made of."""
    if name not in _FILES:
        raise Problem(404, f"there is no /-/{name}")
    return _file(name, _FILES[name])


# -- looking -----------------------------------------------------------------------------------------


@router.get("/-/view/now")
async def now(request: Request, since: float = 0.0) -> Response:
    """Endpoints, workers and hosts, as of the last second; and how they were before, later than `since`."""
    state = _state(request)
    key = await state.access.key_of(request)
    seen = await state.snapshots.now()
    told = asdict(seen)
    told["endpoints"] = [row for row in told["endpoints"] if _allowed(key, row["endpoint"])]
    told["workers"] = [row for row in told["workers"] if _allowed(key, row["endpoint"])]
    if key is not None and key.endpoints:  # what is of all is not for it
        told["hosts"] = []
    history = [
        {"at": at, "of": {name: values for name, values in of.items() if _allowed(key, name)}}
        for at, of in state.snapshots.history
        if at > since
    ]
    return _answer({**told, "history": history, "signed_in": key is not None})


@router.get("/-/view/jobs")
async def jobs(
    request: Request,
    endpoint: str = "",
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_JOBS)] = 50,
) -> Response:
    """Jobs, those in progress first; the first that wait with why they do."""
    state = _state(request)
    if endpoint:
        await state.access.check(request, endpoint)
    else:
        await state.access.check_all(request)
    rows = await state.core.ask(_jobs, endpoint or None, status, limit)
    return _answer(rows)


def _jobs(broker: Broker, endpoint: str | None, status: Status | None, limit: int) -> list[dict[str, Any]]:
    found = []
    explained = 0
    for row in queries_jobs.jobs(broker, endpoint=endpoint, status=status, limit=limit):
        told = asdict(row)
        if row.status is Status.IN_QUEUE and explained < _EXPLAINED:
            explained += 1
            with suppress(FlashqError):  # it has ended or gone meanwhile
                told["why"] = _said(queries_why.why(broker, row.id))
        found.append(told)
    return found


def _said(why: Why) -> dict[str, str]:
    return {"cause": why.cause.value, "detail": why.detail, "advice": why.advice}


@router.get("/-/view/jobs/{job}")
async def one(request: Request, job: str) -> Response:
    """All about one job: why it stands where it does, where its time went, its last lines."""
    state = _state(request)
    await state.access.check(request, endpoint_of(job))
    return _answer(await state.core.ask(_one, job))


def _one(broker: Broker, job: str) -> dict[str, Any]:
    found = queries_jobs.job(broker, job)
    if found.endpoint != endpoint_of(job):
        raise JobNotFound(f"no job {job} of that endpoint", job_id=job)
    return {**asdict(found), "why": _said(queries_why.why(broker, job))}


# -- acting ------------------------------------------------------------------------------------------


@router.post("/-/act/cancel/{job}")
async def cancel(request: Request, job: str) -> Answer:
    """Stop a job."""
    client = (await _acting(request, endpoint_of(job))).core.client
    return Answer({"said": await client.ask(client.transitions.cancel(job), lambda verdict: verdict)})


@router.post("/-/act/retry/{job}")
async def retry(request: Request, job: str) -> Answer:
    """Begin a job anew that failed."""
    client = (await _acting(request, endpoint_of(job))).core.client
    return Answer({"said": await client.ask(client.transitions.requeue(job), lambda verdict: verdict)})


@router.post("/-/act/purge/{endpoint}")
async def purge(request: Request, endpoint: str) -> Answer:
    """Cancel all that waits for an endpoint."""
    core = (await _acting(request, endpoint)).core
    return Answer({"said": f"{await core.ask(purge_waiting, endpoint)} cancelled"})


async def _acting(request: Request, endpoint: str) -> State:
    """Raises Problem where whoever asks has not signed in, or not for this endpoint."""
    state = _state(request)
    key = await state.access.key_of(request)
    if key is None:
        raise Problem(403, "to act from here an API key is needed: `flashq apikeys make NAME`")
    if not key.allows(endpoint):
        raise Problem(403, f"this API key is not for endpoint {endpoint}")
    return state


def _allowed(key: ApiKey | None, endpoint: str) -> bool:
    return key is None or key.allows(endpoint)


def _file(name: str, kind: str) -> Response:
    content = files("flashq.gateway").joinpath("static", name).read_bytes()
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)


def _answer(content: Any) -> Response:
    text = json.dumps(content, default=_plain, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json", headers=_HEADERS)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(f"{type(value).__name__} is nothing that the page knows")
