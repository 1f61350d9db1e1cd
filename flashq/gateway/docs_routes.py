"""`/openapi.json` and `/docs`: what the gateway answers to, with the endpoints that are registered now."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import HTMLResponse  # noqa: TC002

from flashq.errors import FlashqError
from flashq.gateway.bodies import Answer
from flashq.gateway.problems import Problem
from flashq.gateway.schemas import described
from flashq.store.queries_fleet import endpoint_names

router = APIRouter(include_in_schema=False)
_MOST = 200
"""Endpoints that are described one by one."""


@router.get("/openapi.json")
async def openapi(request: Request) -> Answer:
    """The document; with the endpoints that this request may call."""
    state = request.app.state.gateway
    document = request.app.openapi()
    signatures = {}
    try:
        key = await state.access.key_of(request)
        names = [name for name in await state.core.ask(endpoint_names) if key is None or key.allows(name)]
        for name in names[:_MOST]:
            called = await state.core.endpoint(name)
            targets = called.current.targets or {"": ""}
            signatures[name] = {target: called.signature(target).schema for target in targets}
    except (Problem, FlashqError):  # no key, or no broker: what holds for every endpoint is told all the same
        signatures = {}
    return Answer(described(document, signatures))


@router.get("/docs")
async def docs() -> HTMLResponse:
    """A page to try it on."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="flashq")
