"""`/openapi.json` and `/docs`: what the gateway answers to, with the endpoints that are registered now.

The page and all that it loads come from here: it works without a network, and no other server's code sees a key that is
typed into it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import FileResponse, HTMLResponse, Response

from flashq.errors import FlashqError
from flashq.gateway.bodies import Answer
from flashq.gateway.problems import Problem
from flashq.gateway.schemas import described
from flashq.store.queries_fleet import endpoint_names

router = APIRouter(include_in_schema=False)
_MOST = 200
"""Endpoints that are described one by one."""
_FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"})
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>flashq</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon.png">
</head>
<body>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/begin.js"></script>
</body>
</html>
"""
_BEGIN = (
    "SwaggerUIBundle({url: '/openapi.json', dom_id: '#ui', deepLinking: true, persistAuthorization: false})\n"
)


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
    return HTMLResponse(_PAGE, headers=_POLICY)


@router.get("/docs/{name}")
async def part(name: str) -> Response:
    """What the page is made of."""
    if name == "begin.js":
        return Response(_BEGIN, media_type="text/javascript", headers=_POLICY)
    spec = importlib.util.find_spec("fastapi_offline")
    folders = spec.submodule_search_locations if spec is not None and name in _FILES else None
    if not folders:
        raise Problem(404, "there is no such route: see /docs")
    return FileResponse(Path(folders[0], "static", name), headers=_POLICY)
