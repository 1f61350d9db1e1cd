"""The gateway's application: its routers, what stands before them, and how errors are answered."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from flashq._version import __version__
from flashq.errors import FlashqError
from flashq.gateway import (
    dashboard_routes,
    docs_routes,
    http_routes,
    job_routes,
    metrics_routes,
    probe_routes,
)
from flashq.gateway.access import FRESH_S, Access
from flashq.gateway.bodies import Answer
from flashq.gateway.checked_input import InputRefused
from flashq.gateway.core import Core
from flashq.gateway.guards import Guards, Limits
from flashq.gateway.problems import Problem, of_error
from flashq.gateway.snapshots import Snapshots
from flashq.gateway.state import State
from flashq.gateway.streams import Streams
from flashq.gateway.webhooks import PAUSE_S, Webhooks
from flashq.store import gateways

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import APIRouter
    from starlette.requests import Request

    from flashq.client import Client
    from flashq.job import EndpointJob
    from flashq.settings import Settings

log = logging.getLogger("flashq.gateway")
_TAKE_OVER_EACH = 6  # beats
_BODY_OVERHEAD = 64 * 1024
"""What a body may have beside the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a gateway is run."""

    local_only: bool = True
    """Nobody but this machine reaches it: without API keys everybody may use it."""
    address: str = ""
    """Where it listens, to be told to whoever asks the broker; empty: it is not told."""
    hosts: frozenset[str] = frozenset()
    """Names that requests may be for; empty: any."""
    internal_webhooks: bool = False
    webhook_pause_s: float = PAUSE_S
    body_s: float = 60.0
    keys_fresh_s: float = FRESH_S
    on_job: Callable[[EndpointJob[Any]], None] | None = None
    """Told of each job that is submitted here."""


def create_app(
    client: Client, settings: Settings, options: Options | None = None, *, routers: tuple[APIRouter, ...] = ()
) -> FastAPI:
    """The application. `routers`: further ones, before those of endpoints; they find a `State` in app.state.gateway."""
    told = options or Options()
    core = Core(client, settings, told.on_job)

    async def said_of(job: str) -> dict[str, Any]:
        return job_routes.said_of(core, await core.job(job))

    state = State(
        core=core,
        access=Access(core, local_only=told.local_only, fresh_s=told.keys_fresh_s),
        streams=Streams(core),
        snapshots=Snapshots(core),
        webhooks=Webhooks(core, said_of, internal=told.internal_webhooks, pause_s=told.webhook_pause_s),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ends = asyncio.Event()
        beats = asyncio.create_task(_beat(state, told.address, ends))
        yield
        ends.set()
        await beats  # one that is on its way would say again that this gateway lives
        with suppress(FlashqError):
            await core.ask(gateways.leave, client.id, told.address)
        state.close()

    app = FastAPI(
        title="flashq",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = state
    for router in (
        probe_routes.router,
        dashboard_routes.router,
        docs_routes.router,
        metrics_routes.router,
        job_routes.router,
        *routers,
        http_routes.router,
    ):
        app.include_router(router)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(InputRefused, _on_refused)
    app.add_exception_handler(FlashqError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_surprise)
    limits = Limits(told.hosts, settings.payload_limit + _BODY_OVERHEAD, told.body_s)
    app.add_middleware(Guards, limits=limits)
    return app


async def _beat(state: State, address: str, ends: asyncio.Event) -> None:
    """Say that this gateway lives, and look after what those had to tell that do not."""
    number = 0
    while not ends.is_set():
        try:
            await state.core.ask(gateways.beat, state.core.client.id, address)
            if number % _TAKE_OVER_EACH == 0:
                await state.webhooks.take_over()
        except FlashqError as error:
            log.warning("the broker could not be told that this gateway lives: %s", error)
        number += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(ends.wait(), gateways.BEAT_S)


async def _on_problem(request: Request, problem: Exception) -> Answer:
    assert isinstance(problem, Problem)
    return Answer(problem.body(), problem.status, problem.headers)


async def _on_refused(request: Request, error: Exception) -> Answer:
    assert isinstance(error, InputRefused)
    return await _on_problem(request, Problem(422, str(error), field=error.field))


async def _on_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, FlashqError)
    return await _on_problem(request, of_error(error))


async def _on_validation(request: Request, error: Exception) -> Answer:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return Answer({"error": first["msg"], "field": ".".join(str(part) for part in first["loc"][1:])}, 422)


async def _on_http(request: Request, error: Exception) -> Answer:
    assert isinstance(error, HTTPException)
    return Answer({"error": str(error.detail)}, error.status_code, error.headers)


async def _on_surprise(request: Request, error: Exception) -> Answer:
    log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return Answer({"error": "the gateway failed: its log says how"}, 500)
