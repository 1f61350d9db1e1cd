"""Jobs as people see them: a bounded listing, and all about one of them. Reads only (see `queries`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from flashq.model.causes import explain
from flashq.model.lifecycle import STATUS, TERMINAL, WAITING, JobState, Status
from flashq.model.retry import MAX_DELIVERIES
from flashq.store.command import text
from flashq.store.queries import (
    absent,
    delivered,
    last_lines,
    moment,
    read_hash,
    read_hashes,
    said,
    state_of,
    timing_of,
    whole,
)
from flashq.store.queries_fleet import endpoint_names, queue_names, require_endpoint
from flashq.store.queries_why import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from flashq.store.broker import Broker

#: How many ids of one list or registry a listing looks at, at most.
REACH = 5000
_SPARE = 100  # ids that may turn out to be of deleted jobs
_PAGE = 200  # jobs read in one round trip
_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One line of the listing."""

    id: str
    endpoint: str
    status: Status
    attempts: int
    enqueued_at: datetime | None
    started_at: datetime | None  # when its present (or last) attempt began
    ended_at: datetime | None
    worker: str | None
    cold_start: bool | None  # no idle worker was there to take it; None: not known yet


@dataclass(frozen=True, slots=True)
class JobDetail(ListedJob):
    """Everything about one job."""

    state: JobState  # finer than `status`: tells claimed from running, scheduled from queued
    revision: str | None
    queue: str
    priority: int
    parent: str | None  # the job that made this call
    generation: int  # how often it was begun anew by hand
    losses: int  # runs that ended without an outcome
    retries: int  # runs after an exception
    description: str
    claimed_at: datetime | None
    expires_at: datetime | None  # when it ends unless it has begun (its ttl)
    delivery: str
    max_deliveries: int  # losses that it may have
    cancel_requested: bool
    waits_for: str | None  # why it has not begun, as far as that is known
    progress: Any  # what it last told of how far it is
    reason: str | None  # a word for machines
    error: str | None  # for people
    timing: dict[str, Any]  # the fields of flashq.job.Timing
    log: list[str]  # the last lines it printed


_STATES = frozenset(JobState)
_LISTED = tuple(
    "fq_state fq_ep fq_attempts fq_enqueued fq_claimed fq_began fq_ended worker_name fq_cold".split()
)
_DETAIL = (
    *_LISTED,
    *"fq_rev origin fq_prio fq_gen fq_losses fq_retries description fq_ttl_at fq_cancel fq_parent fq_progress".split(),
    *"fq_reason fq_error fq_timing fq_mode fq_max_losses".split(),
)


def _listed(job_id: str, hash_: dict[str, str]) -> ListedJob:
    state = state_of(hash_, job_id)
    _, began = delivered(hash_, state)
    return ListedJob(
        id=job_id,
        endpoint=hash_["fq_ep"],
        status=STATUS[state],
        attempts=whole(hash_["fq_attempts"]) or 0,
        enqueued_at=moment(hash_["fq_enqueued"]),
        started_at=moment(began),
        ended_at=moment(hash_["fq_ended"]) if state in TERMINAL else None,
        worker=hash_["worker_name"] or None,
        cold_start=_cold(hash_, state),
    )


def _cold(hash_: dict[str, str], state: JobState) -> bool | None:
    if hash_["fq_cold"]:
        return hash_["fq_cold"] == "1"
    return None if state is JobState.SCHEDULED and not hash_["fq_began"] else False


def job(broker: Broker, job_id: str) -> JobDetail:
    """One job. Raises JobNotFound, ResultExpired, BrokerError."""
    hash_ = read_hash(broker, broker.keys.of("job", job_id), _DETAIL)
    if hash_["fq_state"] not in _STATES:
        raise absent(broker, job_id)
    listed = _listed(job_id, hash_)
    state = JobState(hash_["fq_state"])
    claimed, _ = delivered(hash_, state)
    return JobDetail(
        **{f.name: getattr(listed, f.name) for f in fields(listed)},
        state=state,
        revision=hash_["fq_rev"] or None,
        queue=hash_["origin"],
        priority=whole(hash_["fq_prio"]) or 0,
        parent=hash_["fq_parent"] or None,
        generation=whole(hash_["fq_gen"]) or 0,
        losses=whole(hash_["fq_losses"]) or 0,
        retries=whole(hash_["fq_retries"]) or 0,
        description=hash_["description"],
        claimed_at=moment(claimed),
        expires_at=moment(hash_["fq_ttl_at"]),
        delivery=hash_["fq_mode"] or "at_least_once",
        max_deliveries=whole(hash_["fq_max_losses"]) or MAX_DELIVERIES,
        cancel_requested=hash_["fq_cancel"] == "1",
        waits_for=explain(facts(broker, job_id, hash_)).detail if state in WAITING else None,
        progress=said(hash_["fq_progress"]),
        reason=hash_["fq_reason"] or None,
        error=hash_["fq_error"] or None,
        timing=timing_of(hash_, job_id),
        log=last_lines(broker, job_id, _LAST_LINES),
    )


def stored_outcome(broker: Broker, job_id: str) -> bytes:
    """The signed outcome of a job, unverified; b'' where it has none."""
    return bytes(broker.execute("HGET", broker.keys.of("job", job_id), "fq_outcome") or b"")


# -- the listing -------------------------------------------------------------------------------------


def jobs(
    broker: Broker, *, endpoint: str | None = None, status: Status | None = None, limit: int = 50
) -> list[ListedJob]:
    """At most `limit` jobs: those in progress, newest first; those waiting, oldest first; those that ended,
    newest first. Of each endpoint's registry the newest `REACH` are looked at.

    Raises: EndpointNotFound, BrokerError.
    """
    if endpoint is not None:
        require_endpoint(broker, endpoint)
    names = [endpoint] if endpoint is not None else endpoint_names(broker)
    queues = queue_names(broker, names)
    reach = REACH if status is not None else min(REACH, limit + _SPARE)
    found: list[ListedJob] = []
    seen: set[str] = set()
    for group in _groups(status):
        ids = [i for i in dict.fromkeys(_ids(broker, group, queues, reach)) if i not in seen]
        seen.update(ids)
        rows = _first(broker, ids, status, limit - len(found))
        found += sorted(rows, key=_age_key, reverse=group != "waiting")
        if len(found) >= limit:
            break
    return found


def _age_key(row: ListedJob) -> float:
    at = row.ended_at or row.started_at or row.enqueued_at
    return at.timestamp() if at is not None else 0.0


_GROUP_OF = {
    Status.IN_PROGRESS: "leased",
    Status.IN_QUEUE: "waiting",
    Status.COMPLETED: "finished",
    Status.FAILED: "failed",
    Status.TIMED_OUT: "failed",
    Status.CANCELLED: "canceled",
}


def _groups(status: Status | None) -> list[str]:
    return ["leased", "waiting", "ended"] if status is None else [_GROUP_OF[status]]


def _ids(broker: Broker, group: str, queues: dict[str, list[str]], reach: int) -> Iterable[str]:
    """Ids of jobs that are (or just were) in this group, those to be shown first in front."""
    of = broker.keys.of
    every = [queue for names in queues.values() for queue in names]
    if group == "leased":
        replies = broker.execute_all([("ZRANGE", of("leases", ep), 0, reach - 1) for ep in queues])
        return (text(i) for i in chain.from_iterable(replies))
    if group == "waiting":
        sources = [("LRANGE", of("queue", queue)) for queue in every]
        sources += [("ZRANGE", of("scheduled", queue)) for queue in every]
        replies = broker.execute_all([(command, key, 0, reach - 1) for command, key in sources])
        return (text(i) for i in chain.from_iterable(zip_longest(*replies)) if i is not None)
    registries = ("finished", "failed", "canceled") if group == "ended" else (group,)
    replies = broker.execute_all(
        [("ZREVRANGE", of(r, queue), 0, reach - 1, "WITHSCORES") for r in registries for queue in every]
    )
    # Scores say until when a job is kept: newest first, as far as all are kept equally long.
    scored = [(float(reply[i + 1]), text(reply[i])) for reply in replies for i in range(0, len(reply), 2)]
    return (i for _, i in sorted(scored, reverse=True))


def _first(broker: Broker, ids: list[str], status: Status | None, most: int) -> list[ListedJob]:
    """The first jobs of these that still exist and have the wanted status."""
    found: list[ListedJob] = []
    for job_id, hash_ in _read(broker, ids):
        if len(found) >= most:
            break
        if hash_["fq_state"] in _STATES and (status is None or STATUS[JobState(hash_["fq_state"])] is status):
            found.append(_listed(job_id, hash_))
    return found


def _read(broker: Broker, ids: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        hashes = read_hashes(broker, [broker.keys.of("job", i) for i in page], _LISTED)
        yield from zip(page, hashes, strict=True)
