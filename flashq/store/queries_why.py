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
from flashq.store.queries import absent, read_hash, read_hashes, whole, written
from flashq.store.queries_fleet import autoscalers, now_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    known = _with_job(Facts(state=state), job)
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
    (placed,) = _placed(broker, [(job_id, job)])
    return _of_job(job, of_endpoint(broker, job["fq_ep"], known), placed, now_ms(broker))


def of_endpoint(broker: Broker, endpoint: str, known: Facts) -> Facts:
    """What holds for all jobs of an endpoint that wait. Raises BrokerError."""
    record = read_hash(
        broker,
        broker.keys.of("endpoint", endpoint),
        ("revision", "paused", "condition", "withheld", "scaling"),
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
        registered=bool(record["revision"]),
        paused=record["paused"] == "1",
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


_Placed = tuple[bytes | None, int | None, int | None, bytes | None]


def _placed(broker: Broker, jobs: Sequence[tuple[str, dict[str, str]]]) -> list[_Placed]:
    """Of each job that waits: when it is due, its place on its queue, and on those of held jobs."""
    of = broker.keys.of
    requests: list[tuple[str | int, ...]] = []
    for job_id, job in jobs:
        kept = held_queue(job["fq_ep"])
        requests += [
            ("ZSCORE", of("scheduled", job["origin"]), job_id),
            ("LPOS", of("queue", job["origin"]), job_id, "MAXLEN", _AHEAD),
            ("LPOS", of("queue", kept), job_id, "MAXLEN", _AHEAD),
            ("ZSCORE", of("scheduled", kept), job_id),
        ]
    replies = broker.execute_all(requests)
    return [tuple(replies[start : start + 4]) for start in range(0, len(replies), 4)]


def _of_job(job: dict[str, str], known: Facts, placed: _Placed, at: int) -> Facts:
    due, place, held, held_later = placed
    return replace(
        known,
        due_in_s=float(due) - at / 1000 if due and known.state is JobState.SCHEDULED else None,
        ahead=place or 0,
        held=held is not None or held_later is not None,
        unhurried=job["origin"].startswith(queue_name(job["fq_ep"], priority=UNHURRIED_PRIORITY)),
    )


def why_all(broker: Broker, job_ids: Sequence[str]) -> dict[str, Why]:
    """Of many jobs, what holds for an endpoint read once; those that are gone are left out. Raises BrokerError."""
    hashes = read_hashes(broker, [broker.keys.of("job", job_id) for job_id in job_ids], _JOB)
    jobs = [(job_id, job) for job_id, job in zip(job_ids, hashes, strict=True) if job["fq_state"] in _STATES]
    waiting = [(job_id, job) for job_id, job in jobs if job["fq_state"] in WAITING]
    places = dict(zip((job_id for job_id, _ in waiting), _placed(broker, waiting), strict=True))
    of_all = _of_broker(broker, Facts(state=JobState.QUEUED))
    shared = {name: of_endpoint(broker, name, of_all) for name in {job["fq_ep"] for _, job in waiting}}
    at = now_ms(broker)
    found = {}
    for job_id, job in jobs:
        if job_id in places:
            known = _of_job(job, _with_job(shared[job["fq_ep"]], job), places[job_id], at)
        else:
            base = Facts(state=JobState.QUEUED) if job["fq_state"] in TERMINAL else of_all
            known = _with_job(base, job)
        found[job_id] = explain(known)
    return found


def _with_job(known: Facts, job: dict[str, str]) -> Facts:
    return replace(
        known,
        state=JobState(job["fq_state"]),
        reason=job["fq_reason"],
        error=job["fq_error"],
        worker=job["worker_name"],
        stopping=job["fq_cancel"] == "1",
        retries=whole(job["fq_retries"]) or 0,
    )
