"""Endpoints, workers and hosts at one moment, the busiest first: for `flashq top`. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flashq.store import queries_fleet as fleet
from flashq.store import queries_queues

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_STATES = ("initializing", "idle", "running", "throttled", "outdated", "unhealthy")
_OF_GPU = ("uuid", "name", "memory_bytes", "used_bytes", "worker")


@dataclass(frozen=True, slots=True)
class EndpointNow:
    """An endpoint: what waits, and its workers by state."""

    endpoint: str
    queued: int
    in_progress: int
    oldest_age_s: float | None
    failed: int
    initializing: int
    idle: int
    running: int
    throttled: int
    outdated: int
    unhealthy: int
    workers_max: int | None
    paused: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """A worker that is at work."""

    worker: str
    endpoint: str
    state: str | None
    host: str | None
    job: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class HostNow:
    """A host. `gpus_held`: of its GPUs, those that workers have."""

    host: str
    state: str
    workers: int
    gpus: int
    gpus_held: int
    cpus: float | None
    since: datetime | None
    gpu_memory: list[dict[str, Any]]
    """Of each GPU: uuid, name, memory_bytes, used_bytes, worker."""


@dataclass(frozen=True, slots=True)
class Now:
    """All of it, at one time."""

    at: datetime
    endpoints: list[EndpointNow]
    workers: list[WorkerNow]
    hosts: list[HostNow]


def look(broker: Broker) -> Now:
    """What is there; the busiest first. Raises BrokerError."""
    waiting = {row.endpoint: row for row in queries_queues.queues(broker)}
    endpoints = [
        EndpointNow(
            endpoint=row.name,
            **{name: getattr(waiting.get(row.name), name, 0) for name in ("queued", "in_progress", "failed")},
            oldest_age_s=getattr(waiting.get(row.name), "oldest_age_s", None),
            **{state: getattr(row, state) for state in _STATES},
            workers_max=row.workers_max,
            paused=row.paused,
            reason=row.reason,
        )
        for row in fleet.endpoints(broker)
    ]
    workers = [
        WorkerNow(row.id, row.endpoint, row.state, row.host, row.job, row.since)
        for row in fleet.workers(broker)
    ]
    hosts = [
        HostNow(
            host=row.id,
            state=row.state,
            workers=row.workers,
            gpus=len(row.gpus),
            gpus_held=sum(bool(gpu.get("worker")) for gpu in row.gpus),
            cpus=row.cpus,
            since=row.since,
            gpu_memory=[{name: gpu.get(name) for name in _OF_GPU} for gpu in row.gpus],
        )
        for row in fleet.hosts(broker)
    ]
    endpoints.sort(key=lambda row: (-row.queued - row.in_progress, row.endpoint))
    workers.sort(key=lambda row: (row.state != "running", row.worker))
    at = datetime.fromtimestamp(fleet.now_ms(broker) / 1000, UTC)
    return Now(at, endpoints, workers, hosts)
