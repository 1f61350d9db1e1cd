"""The dashboard: a page at `/`, and what it asks for, below `/-/` (where no endpoint's name can lead).

Looking needs what any request needs; acting needs an API key, whoever asks. The key comes in a header that the page's
own script sets, never in a cookie, so that no other page can have a browser send it. All that is said of endpoints and
jobs is data to the page: it puts it into text nodes.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import Response

from flashq.gateway import dashboard_view
from flashq.gateway.bodies import Answer
from flashq.gateway.problems import Problem
from flashq.model.job_id import endpoint_of
from flashq.model.lifecycle import Status  # noqa: TC001 — FastAPI reads it at run time
from flashq.store import queries_dashboard
from flashq.store.failed import purge_waiting

if TYPE_CHECKING:
    from flashq.gateway.state import State

router = APIRouter(include_in_schema=False)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    **dict.fromkeys(("app.js", "charts.js", "dom.js", "feed.js", "views.js"), "text/javascript"),
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_MOST_JOBS = 1000


def _state(request: Request) -> State:
    state: State = request.app.state.gateway
    return state


@router.get("/")
async def page() -> Response:
    """The page itself: it holds nothing of the deployment."""
    return _file("index.html", "text/html")


@router.get("/-/{name}")
async def part(name: str) -> Response:
    """What the page is made of."""
    if name not in _FILES:
        raise Problem(404, f"there is no /-/{name}")
    return _file(name, _FILES[name])


# -- looking -----------------------------------------------------------------------------------------


@router.get("/-/view/now")
async def now(request: Request, since: float = 0.0) -> Answer:
    """Endpoints, workers and hosts, as of the last second; and how they were before, later than `since` (ms)."""
    state = _state(request)
    key = await state.access.key_of(request)

    def allows(endpoint: str) -> bool:
        return key is None or key.allows(endpoint)

    seen = await state.snapshots.now()
    told = dashboard_view.now(seen, allows, whole=key is None or not key.endpoints)
    history = [
        {"at": at, "of": {name: values for name, values in of.items() if allows(name)}}
        for at, of in state.snapshots.history
        if at > since
    ]
    access = {"signed_in": key is not None, "key": key.name if key else None}
    return Answer({**told, **access, "history": history}, headers=_HEADERS)


@router.get("/-/view/jobs")
async def jobs(
    request: Request,
    endpoint: str = "",
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_JOBS)] = 100,
) -> Answer:
    """Jobs, those in progress first, each with why it stands as it does."""
    state = _state(request)
    if endpoint:
        await state.access.check(request, endpoint)
    else:
        await state.access.check_all(request)
    rows = await state.snapshots.ask(queries_dashboard.jobs_with_why, endpoint or None, status, limit)
    return Answer(dashboard_view.jobs(rows), headers=_HEADERS)


@router.get("/-/view/jobs/{job}")
async def one(request: Request, job: str) -> Answer:
    """All about one job: why it stands where it does, where its time went, its last lines."""
    state = _state(request)
    await state.access.key_of(
        request
    )  # whoever has none is told nothing, not even whether there is such a job
    found = await state.snapshots.ask(queries_dashboard.job_page, job)
    await state.access.check(request, found.detail.endpoint)
    return Answer(dashboard_view.job(found), headers=_HEADERS)


@router.get("/-/view/endpoints/{name}")
async def endpoint_past(request: Request, name: str) -> Answer:
    """What happened to an endpoint, and how its last cold starts went."""
    state = _state(request)
    await state.access.check(request, name)
    found = await state.snapshots.ask(queries_dashboard.past, name)
    return Answer(dashboard_view.plain(found), headers=_HEADERS)


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


def _file(name: str, kind: str) -> Response:
    content = files("flashq.gateway").joinpath("static", name).read_bytes()
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)
