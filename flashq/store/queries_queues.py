"""What waits, by endpoint, as people see it. Reads only (see `queries`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.queries import read_hashes, whole
from flashq.store.queries_fleet import endpoint_names, now_ms, queue_names, require_endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.broker import Broker

_HEAD = 16  # waiting jobs at the head of a queue that are dated to find the oldest


@dataclass(frozen=True, slots=True)
class ListedQueue:
    """What waits for one endpoint, its sibling queues (other priorities and revisions) included."""

    endpoint: str
    queued: int
    in_progress: int
    failed: int
    oldest_age_s: (
        float | None
    )  # how long the oldest of the queued has waited (since its delay, if it had one)
    scheduled: int  # wait for their time
    parked: int  # found on the queue and no jobs of flashq
    paused: bool  # nothing is taken from it


def queue(broker: Broker, endpoint: str) -> ListedQueue:
    """What waits for one endpoint. Raises EndpointNotFound, BrokerError."""
    require_endpoint(broker, endpoint)
    return _rows(broker, [endpoint])[0]


def queues(broker: Broker) -> list[ListedQueue]:
    """One row an endpoint, by name. Raises BrokerError."""
    return _rows(broker, endpoint_names(broker))


def _rows(broker: Broker, endpoints: Sequence[str]) -> list[ListedQueue]:
    of = broker.keys.of
    owned = queue_names(broker, endpoints)
    names = [name for siblings in owned.values() for name in siblings]
    at = now_ms(broker)
    replies = broker.execute_all([r for name in names for r in _requests(broker, name, at)])
    counts = {name: replies[4 * i : 4 * i + 4] for i, name in enumerate(names)}
    since = _since(broker, [text(i) for _, _, _, head in counts.values() for i in head])
    busy = broker.execute_all([("ZCARD", of("leases", name)) for name in owned])
    parked = broker.execute_all([("LLEN", of("parked", name)) for name in owned])
    paused = broker.execute_all([("HGET", of("endpoint", name), "paused") for name in owned])
    rows = []
    for (name, siblings), leased, aside, held in zip(owned.items(), busy, parked, paused, strict=True):
        mine = [counts[sibling] for sibling in siblings]
        ages = [at - ms for *_, head in mine for i in head if (ms := since[text(i)]) is not None]
        rows.append(
            ListedQueue(
                endpoint=name,
                queued=sum(c[0] for c in mine),
                in_progress=leased,
                failed=sum(c[1] for c in mine),
                oldest_age_s=max(0, *ages) / 1000 if ages else None,
                scheduled=sum(c[2] for c in mine),
                parked=aside,
                paused=text(held) == "1",
            )
        )
    return rows


def _since(broker: Broker, jobs: Sequence[str]) -> dict[str, int | None]:
    """Since when each of these has waited (ms): it was submitted, became due, or was given back."""
    dated = read_hashes(broker, [broker.keys.of("job", job) for job in jobs], ("fq_ready", "fq_enqueued"))
    return {job: whole(f["fq_ready"] or f["fq_enqueued"]) for job, f in zip(jobs, dated, strict=True)}


def _requests(broker: Broker, queue: str, at_ms: int) -> list[tuple[str | int, ...]]:
    of = broker.keys.of
    return [
        ("LLEN", of("queue", queue)),
        ("ZCOUNT", of("failed", queue), f"({at_ms // 1000}", "+inf"),  # those kept no longer are not counted
        ("ZCARD", of("scheduled", queue)),
        ("LRANGE", of("queue", queue), 0, _HEAD - 1),
    ]
