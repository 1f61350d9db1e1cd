"""What is known of why a job stands where it stands (see `flashq.model.causes`). Reads only."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from flashq.errors import BrokerRefused
from flashq.model.causes import Facts, Why, explain
from flashq.model.lifecycle import TERMINAL, WAITING, JobState
from flashq.model.parameters import UNHURRIED_PRIORITY
from flashq.store import queries_workers, server
from flashq.store.held import held_queue
from flashq.store.keys import queue_name
from flashq.store.queries import absent, read_hash, whole, written
from flashq.store.queries_fleet import autoscalers, now_ms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq.store.broker import Broker
    from flashq.store.workers import WorkerRow

_JOB = ("fq_state", "fq_ep", "origin", "worker_name", "fq_cancel", "fq_reason", "fq_error", "fq_retries")
_STATES = frozenset(JobState)
_AHEAD = 10_000  # of a longer queue no place is said beyond this


def why(broker: Broker, job_id: str) -> Why:
    """Raises JobNotFound, ResultExpired, BrokerError."""
    job = read_hash(broker, broker.keys.of("job", job_id), _JOB)
    if job["fq_state"] not in _STATES:
        raise absent(broker, job_id)
    return explain(facts(broker, job_id, job))


def facts(broker: Broker, job_id: str, job: dict[str, str]) -> Facts:
    """Of a job, by its hash. Of one that does not wait nothing of its endpoint is read, of one that ended nothing."""
    state = JobState(job["fq_state"])
    known = Facts(
        state=state,
        reason=job["fq_reason"],
        error=job["fq_error"],
        worker=job["worker_name"],
        stopping=job["fq_cancel"] == "1",
        retries=whole(job["fq_retries"]) or 0,
    )
    if state in TERMINAL:
        return known
    known = _of_broker(broker, known)
    if state in WAITING:
        return _waiting(broker, job_id, job, known)
    return _building(known, [queries_workers.one(broker, known.worker)], now_ms(broker))


def _of_broker(broker: Broker, known: Facts) -> Facts:
    """Whether the broker takes what is written; where it does not say, nothing is known."""
    try:
        told = server.pressed(broker)
    except BrokerRefused:
        return known
    full = ""
    if told.maxmemory and told.used_memory is not None and told.used_memory > told.maxmemory:
        full = f"{told.used_memory / 2**20:,.1f} MiB used, its limit is {told.maxmemory / 2**20:,.1f} MiB"
    return replace(known, broker_disk=told.writes_fail, broker_memory=full)


def _building(known: Facts, workers: Iterable[WorkerRow], at: int) -> Facts:
    """What is being built for the longest of these workers."""
    under_way = [(since, row.host) for row in workers if (since := _since(row)) is not None]
    if not under_way:
        return known
    since, host = min(under_way)
    return replace(known, building=host or "(unnamed)", building_s=max(0.0, (at - since) / 1000))


def _since(row: WorkerRow) -> float | None:
    try:
        return row.building_ms
    except ValueError:  # somebody else wrote it
        return None


def _waiting(broker: Broker, job_id: str, job: dict[str, str], known: Facts) -> Facts:
    of, endpoint = broker.keys.of, job["fq_ep"]
    kept = held_queue(endpoint)
    due, place, held, held_later = broker.execute_all(
        [
            ("ZSCORE", of("scheduled", job["origin"]), job_id),
            ("LPOS", of("queue", job["origin"]), job_id, "MAXLEN", _AHEAD),
            ("LPOS", of("queue", kept), job_id, "MAXLEN", _AHEAD),
            ("ZSCORE", of("scheduled", kept), job_id),
        ]
    )
    record = read_hash(
        broker, of("endpoint", endpoint), ("revision", "paused", "condition", "withheld", "scaling")
    )
    at = now_ms(broker)
    condition, withheld = written(record["condition"], dict), written(record["withheld"], dict)
    due_at = withheld.get("due_at")
    if not isinstance(due_at, int | float) or due_at * 1000 < at:
        withheld = {}
    fleet = queries_workers.of_endpoint(broker, endpoint)
    counts = Counter(row.state for row in fleet)
    return replace(
        _building(known, [row for row in fleet if row.state == "initializing"], at),
        due_in_s=float(due) - at / 1000 if due and known.state is JobState.SCHEDULED else None,
        ahead=place or 0,
        held=held is not None or held_later is not None,
        registered=bool(record["revision"]),
        paused=record["paused"] == "1",
        unhurried=job["origin"].startswith(queue_name(endpoint, priority=UNHURRIED_PRIORITY)),
        condition=str(condition.get("code") or ""),
        detail=str(condition.get("detail") or ""),
        withheld=str(withheld.get("detail") or ""),
        withheld_code=str(withheld.get("code") or ""),
        most=whole(str(written(record["scaling"], dict).get("workers_max"))),
        idle=counts["idle"],
        busy=counts["running"],
        starting=counts["initializing"],
        autoscaler=any(one.state == "leads" for one in autoscalers(broker)),
    )
