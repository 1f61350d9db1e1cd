"""What the gateway asks about a job or an endpoint: one round trip each. Reads only (see `queries`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.model.lifecycle import STATUS, JobState, Status
from flashq.model.outcome import Ending
from flashq.store.command import text
from flashq.store.queries import absent, delivered, said, state_of, timing_of, whole
from flashq.store.queries_fleet import WORKER_STATES, endpoints
from flashq.store.queries_queues import queue

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_JOB = (
    *"fq_state fq_ep fq_reason fq_error fq_fence fq_gen fq_enqueued fq_claimed fq_began fq_ended fq_attempts".split(),
    *"fq_timing worker_name fq_progress".split(),
)
_STATS = ("finished", "failed", "timed_out", "retried")


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its caller is told of it; the outcome in it is not yet verified. Times are milliseconds."""

    id: str
    endpoint: str
    status: Status
    ending: Ending | None
    """None: it has not ended."""
    delay_ms: int | None
    """From submit until it began."""
    execution_ms: int | None
    worker: str | None
    progress: Any


def job(broker: Broker, job_id: str) -> JobView:
    """One job. Raises: JobNotFound, ResultExpired, BrokerError."""
    values = broker.execute("HMGET", broker.keys.of("job", job_id), *_JOB, "fq_outcome")
    fields = {name: text(value) for name, value in zip(_JOB, values, strict=False)}
    if not fields["fq_state"]:
        raise absent(broker, job_id)
    state = state_of(fields, job_id)
    status = STATUS[state]
    timing = timing_of(fields, job_id)
    _, began = delivered(fields, state)
    enqueued = whole(fields["fq_enqueued"])
    execution = timing["execution_s"]
    return JobView(
        id=job_id,
        endpoint=fields["fq_ep"],
        status=status,
        ending=None
        if status in (Status.IN_QUEUE, Status.IN_PROGRESS)
        else _ending(state, fields, values[-1]),
        delay_ms=None if began is None or enqueued is None else max(0, began - enqueued),
        execution_ms=None if execution is None else round(execution * 1000),
        worker=fields["worker_name"] or None,
        progress=said(fields["fq_progress"]),
    )


def _ending(state: JobState, fields: dict[str, str], outcome: bytes | None) -> Ending:
    fence, generation = whole(fields["fq_fence"]) or 0, whole(fields["fq_gen"]) or 0
    return Ending(state, fence, fields["fq_reason"], fields["fq_error"], bytes(outcome or b""), generation)


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint does: jobs that ended since it was registered, and those it has now; workers by state."""

    completed: int
    failed: int
    retried: int
    in_progress: int
    in_queue: int
    workers: dict[str, int]


def health(broker: Broker, endpoint: str) -> Health:
    """One endpoint. Raises: EndpointNotFound, BrokerError."""
    row = queue(broker, endpoint)
    values = broker.execute("HMGET", broker.keys.of("stats", endpoint), *_STATS)
    counts = {name: whole(text(value)) or 0 for name, value in zip(_STATS, values, strict=True)}
    found = next((one for one in endpoints(broker) if one.name == endpoint), None)
    return Health(
        completed=counts["finished"],
        failed=counts["failed"] + counts["timed_out"],
        retried=counts["retried"],
        in_progress=row.in_progress,
        in_queue=row.queued + row.scheduled,
        workers={state: 0 if found is None else getattr(found, state) for state in WORKER_STATES},
    )
