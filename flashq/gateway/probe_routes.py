"""Whether the gateway runs, and whether it can do its work: for whatever keeps it running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time

from flashq.errors import FlashqError
from flashq.gateway.bodies import Answer

if TYPE_CHECKING:
    from flashq.store.broker import Broker

router = APIRouter(tags=["probes"])


@router.get("/healthz")
async def healthz() -> Answer:
    """It runs."""
    return Answer({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Answer:
    """It reaches its broker."""
    try:
        await request.app.state.gateway.core.ask(_ping)
    except FlashqError as error:
        return Answer({"status": "the broker does not answer", "error": type(error).__name__}, 503)
    return Answer({"status": "ok"})


def _ping(broker: Broker) -> None:
    broker.execute("PING")
