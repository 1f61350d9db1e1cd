"""What happened to an endpoint, as people read it: its events, the newest last. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.store.command import text
from flashq.store.queries import moment
from flashq.store.queries_fleet import require_endpoint

if TYPE_CHECKING:
    from datetime import datetime

    from flashq.store.broker import Broker


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """One change, or one decision."""

    at: datetime | None
    what: str  # "worker-ordered", "endpoint-code", "endpoint-condition", …
    subject: str  # the worker, job, host or GPU that it is about; the endpoint's own name where it is that
    why: str


def events(broker: Broker, endpoint: str, *, most: int) -> tuple[list[ListedEvent], str]:
    """The last so many, and where to go on from. Raises EndpointNotFound, BrokerError."""
    rows = broker.execute("XREVRANGE", broker.keys.of("endpoint_events", endpoint), "+", "-", "COUNT", most)
    if not rows:
        require_endpoint(broker, endpoint)
    return [_event(row) for row in reversed(rows)], text(rows[0][0]) if rows else "0-0"


def events_after(broker: Broker, endpoint: str, after: str) -> tuple[list[ListedEvent], str]:
    """Those since, and where to go on from. Raises BrokerError."""
    rows = broker.execute("XRANGE", broker.keys.of("endpoint_events", endpoint), f"({after}", "+")
    return [_event(row) for row in rows], text(rows[-1][0]) if rows else after


def _event(row: Any) -> ListedEvent:
    entry, flat = row
    said = {text(flat[i]): text(flat[i + 1]) for i in range(0, len(flat), 2)}
    at = moment(text(entry).partition("-")[0])
    return ListedEvent(at, said.get("kind", ""), said.get("subject", ""), said.get("text", ""))
