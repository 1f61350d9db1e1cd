"""What the dashboard asks: all that there is now, lists of jobs with why they wait, one job, one endpoint. Reads only.

Each is a bounded number of reads: many viewers share one answer, so that what they cost the broker does not grow with
their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.store.command import text
from flashq.store.queries import last_lines, moment, read_hashes, state_of, timing_of
from flashq.store.queries_events import ListedEvent, events
from flashq.store.queries_fleet import (
    ListedAutoscaler,
    ListedEndpoint,
    ListedHost,
    ListedWorker,
    autoscalers,
    endpoints,
    hosts,
    now_ms,
    workers,
)
from flashq.store.queries_jobs import JobDetail, ListedJob, job, jobs
from flashq.store.queries_queues import ListedQueue, queues
from flashq.store.queries_why import why, why_all

if TYPE_CHECKING:
    from datetime import datetime

    from flashq.model.causes import Why
    from flashq.model.lifecycle import Status
    from flashq.store.broker import Broker

_LOOKED_AT = 200
"""Of an endpoint so many of the jobs that completed last are looked at for cold starts."""
_COLD_STARTS = 20
_EVENTS = 40
_LINES = 1000
_LOG_CHARACTERS = 256 * 1024
_COLD = ("fq_state", "fq_enqueued", "fq_claimed", "fq_began", "fq_ended", "fq_attempts", "fq_timing")


@dataclass(frozen=True, slots=True)
class Now:
    """All of it, at one time (ms of the broker's clock)."""

    at_ms: int
    endpoints: list[ListedEndpoint]
    queues: dict[str, ListedQueue]
    workers: list[ListedWorker]
    hosts: list[ListedHost]
    autoscalers: list[ListedAutoscaler]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A job that waited for a start, and for what. Times are seconds."""

    job: str
    at: datetime | None
    total_s: float | None
    startup: dict[str, float]
    """By part (docs/reference/timing.md), in the order in which they follow each other."""


@dataclass(frozen=True, slots=True)
class EndpointPast:
    """What happened to an endpoint, the newest first."""

    cold_starts: list[ColdStart]
    events: list[ListedEvent]


@dataclass(frozen=True, slots=True)
class JobPage:
    """One job; `log`: the last lines that it printed."""

    detail: JobDetail
    why: Why
    log: list[str]
    log_cut: bool
    """Whether it printed more than is said here."""


def look(broker: Broker) -> Now:
    """What is there at this moment. Raises BrokerError."""
    return Now(
        at_ms=now_ms(broker),
        endpoints=endpoints(broker),
        queues={row.endpoint: row for row in queues(broker)},
        workers=workers(broker),
        hosts=hosts(broker),
        autoscalers=autoscalers(broker),
    )


def jobs_with_why(
    broker: Broker, endpoint: str | None, status: Status | None, limit: int
) -> list[tuple[ListedJob, Why | None]]:
    """Jobs as `queries_jobs.jobs` lists them, each with why it stands so. Raises EndpointNotFound, BrokerError."""
    rows = jobs(broker, endpoint=endpoint, status=status, limit=limit)
    reasons = why_all(broker, [row.id for row in rows])
    return [(row, reasons.get(row.id)) for row in rows]


def past(broker: Broker, endpoint: str) -> EndpointPast:
    """Raises EndpointNotFound, BrokerError."""
    happened, _ = events(broker, endpoint, most=_EVENTS)
    return EndpointPast(_cold_starts(broker, endpoint), happened[::-1])


def _cold_starts(broker: Broker, endpoint: str) -> list[ColdStart]:
    of = broker.keys.of
    ids = [text(i) for i in broker.execute("ZREVRANGE", of("finished", endpoint), 0, _LOOKED_AT - 1)]
    found: list[ColdStart] = []
    for job_id, fields in zip(ids, read_hashes(broker, [of("job", i) for i in ids], _COLD), strict=True):
        if not fields["fq_state"] or len(found) >= _COLD_STARTS:
            continue
        timing: dict[str, Any] = (
            timing_of(fields, job_id) if state_of(fields, job_id) == "finished" else {"startup": {}}
        )
        if timing["startup"]:
            found.append(ColdStart(job_id, moment(fields["fq_ended"]), timing["total_s"], timing["startup"]))
    return found


def job_page(broker: Broker, job_id: str) -> JobPage:
    """Raises JobNotFound, ResultExpired, BrokerError."""
    detail = job(broker, job_id)
    lines = last_lines(broker, job_id, _LINES)
    kept: list[str] = []
    size = 0
    for line in reversed(lines):
        size += len(line) + 1
        if size > _LOG_CHARACTERS:
            break
        kept.append(line)
    cut = len(kept) < len(lines) or len(lines) >= _LINES
    return JobPage(detail, why(broker, job_id), kept[::-1], cut)
