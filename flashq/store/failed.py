"""Jobs that failed for good: listed, begun anew, deleted (they are what RQ's failed registries hold); and what
waits, purged.

What acts on all of an endpoint works in bounded steps. Of failed jobs it takes what had failed when it began: what
fails again meanwhile is left for the next time, so that it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.model.lifecycle import STATUS, JobState, Status
from flashq.store.command import text
from flashq.store.queries import moment, read_hashes, whole
from flashq.store.queries_fleet import endpoint_names, now_ms, queue_names, require_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from flashq.store.broker import Broker
    from flashq.store.command import Command

#: How many names of one registry a listing looks at, at most.
REACH = 5000
_AT_ONCE = 500
_FIELDS = tuple("fq_state fq_ep fq_reason fq_error fq_attempts fq_retries fq_losses fq_ended".split())
_FAILED = (JobState.FAILED, JobState.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class FailedJob:
    """One job that ended without a value, and why."""

    id: str
    endpoint: str
    status: Status  # FAILED or TIMED_OUT
    reason: str  # a word for machines: a FailureKind
    attempts: int  # runs that began
    retries: int  # of them after an exception
    losses: int  # of them ended without an outcome
    ended_at: datetime | None
    error: str  # for people: its first words


def listed(
    broker: Broker, endpoint: str | None = None, *, reason: str | None = None, limit: int = 50
) -> list[FailedJob]:
    """At most `limit` failed jobs (of every endpoint, unless one is named), the latest first.

    Of each registry the newest `REACH` are looked at. Raises: EndpointNotFound, BrokerError.
    """
    if endpoint is not None:
        require_endpoint(broker, endpoint)
    names = [endpoint] if endpoint is not None else endpoint_names(broker)
    queues = [queue for owned in queue_names(broker, names).values() for queue in owned]
    found: list[FailedJob] = []
    replies = broker.execute_all(
        [("ZREVRANGE", broker.keys.of("failed", queue), 0, REACH - 1) for queue in queues]
    )
    ids = list(dict.fromkeys(text(job) for reply in replies for job in reply))
    for start in range(0, len(ids), _AT_ONCE):
        page = ids[start : start + _AT_ONCE]
        hashes = read_hashes(broker, [broker.keys.of("job", job) for job in page], _FIELDS)
        found += [_row(job, h) for job, h in zip(page, hashes, strict=True) if h["fq_state"] in _FAILED]
    found = [row for row in found if reason in (None, row.reason)]
    return sorted(found, key=lambda row: row.ended_at.timestamp() if row.ended_at else 0.0, reverse=True)[
        :limit
    ]


def _row(job: str, fields: dict[str, str]) -> FailedJob:
    return FailedJob(
        id=job,
        endpoint=fields["fq_ep"],
        status=STATUS[JobState(fields["fq_state"])],
        reason=fields["fq_reason"],
        attempts=whole(fields["fq_attempts"]) or 0,
        retries=whole(fields["fq_retries"]) or 0,
        losses=whole(fields["fq_losses"]) or 0,
        ended_at=moment(fields["fq_ended"]),
        error=fields["fq_error"],
    )


def requeue(broker: Broker, endpoint: str, *, reason: str = "") -> int:
    """Begin every failed job of an endpoint anew (of one reason, if one is given): how many.

    Raises: EndpointNotFound, BrokerError.
    """

    def step(queue: str, before_ms: int, offset: int) -> Command[tuple[int, int]]:
        return broker.transitions.requeue_failed(
            endpoint, queue, before_ms=before_ms, reason=reason, offset=offset, limit=_AT_ONCE
        )

    return _on_all(broker, endpoint, step)


def purge(broker: Broker, endpoint: str, *, reason: str = "") -> int:
    """Delete every failed job of an endpoint (of one reason, if one is given): how many.

    Raises: EndpointNotFound, BrokerError.
    """

    def step(queue: str, before_ms: int, offset: int) -> Command[tuple[int, int]]:
        return broker.transitions.purge_failed(
            endpoint, queue, before_ms=before_ms, reason=reason, offset=offset, limit=_AT_ONCE
        )

    return _on_all(broker, endpoint, step)


def purge_waiting(broker: Broker, endpoint: str) -> int:
    """Cancel every job that waits for an endpoint: how many. Raises: EndpointNotFound, BrokerError."""
    require_endpoint(broker, endpoint)
    total = 0
    while True:
        count = broker.run(broker.transitions.purge(endpoint, _AT_ONCE))
        total += count
        if count < _AT_ONCE:
            return total


def _on_all(broker: Broker, endpoint: str, step: Callable[[str, int, int], Command[tuple[int, int]]]) -> int:
    require_endpoint(broker, endpoint)
    before_ms, total = now_ms(broker), 0
    for queue in queue_names(broker, [endpoint])[endpoint]:
        offset = 0
        while True:
            looked, acted = broker.run(step(queue, before_ms, offset))
            total += acted
            offset += looked - acted  # what was passed by stays in the registry, in front of the rest
            if looked < _AT_ONCE:
                break
    return total
