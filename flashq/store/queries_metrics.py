"""Everything that the gateway counts for Prometheus, in a few round trips. Reads only (see `queries`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.queries import decimal, delivered, read_hashes, state_of, whole, written
from flashq.store.queries_fleet import WORKER_STATES, endpoints, hosts
from flashq.store.queries_queues import queues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.broker import Broker

RECENT = 50
"""Of each endpoint so many of the jobs that completed last are looked at for how long they waited and ran."""
COUNTERS = ("finished", "failed", "timed_out", "cancelled", "retried", "cold")
_TIMES = ("fq_state", "fq_enqueued", "fq_claimed", "fq_began", "fq_timing")


@dataclass(frozen=True, slots=True)
class EndpointNumbers:
    """One endpoint. Times are seconds."""

    name: str
    queued: int
    scheduled: int
    in_progress: int
    oldest_age_s: float
    paused: bool
    workers: dict[str, int]
    counters: dict[str, int]
    """Since it was registered: jobs that ended so; `retried`: runs after an exception; `cold`: no worker was idle."""
    waits_s: list[float] = field(default_factory=list)
    executions_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GpuNumbers:
    """One GPU of a host."""

    uuid: str
    host: str
    model: str
    memory_bytes: int
    used_bytes: int
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """All of them."""

    endpoints: list[EndpointNumbers]
    gpus: list[GpuNumbers]
    hosts: dict[str, str]
    """Each host's state."""


def numbers(broker: Broker) -> Numbers:
    """What there is at this moment. Raises BrokerError."""
    of = broker.keys.of
    waiting = {row.endpoint: row for row in queues(broker)}
    listed = [one for one in endpoints(broker) if one.name in waiting]
    names = [one.name for one in listed]
    counts = broker.read_all([("HMGET", of("stats", name), *COUNTERS) for name in names])
    recent = _recent(broker, names)
    machines = hosts(broker)
    rows = []
    for one, counted in zip(listed, counts, strict=True):
        queue = waiting[one.name]
        waits, executions = recent[one.name]
        rows.append(
            EndpointNumbers(
                name=one.name,
                queued=queue.queued,
                scheduled=queue.scheduled,
                in_progress=queue.in_progress,
                oldest_age_s=queue.oldest_age_s or 0.0,
                paused=queue.paused,
                workers={state: getattr(one, state) for state in WORKER_STATES},
                counters={
                    name: whole(text(value)) or 0
                    for name, value in zip(COUNTERS, counted or [None] * len(COUNTERS), strict=True)
                },
                waits_s=waits,
                executions_s=executions,
            )
        )
    gpus = [
        GpuNumbers(
            uuid=str(gpu.get("uuid")),
            host=host.id,
            model=str(gpu.get("name")),
            memory_bytes=whole(json.dumps(gpu.get("memory_bytes"))) or 0,
            used_bytes=whole(json.dumps(gpu.get("used_bytes"))) or 0,
            utilisation=decimal(json.dumps(gpu.get("utilisation"))),
        )
        for host in machines
        for gpu in host.gpus
    ]
    return Numbers(rows, gpus, {host.id: host.state for host in machines})


def _recent(broker: Broker, names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """How long the jobs of each waited and ran that completed last, as far as they are kept."""
    of = broker.keys.of
    lists = broker.read_all([("ZREVRANGE", of("finished", name), 0, RECENT - 1) for name in names])
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, ids in zip(names, lists, strict=True):
        waits, executions = found[name] = [], []
        for fields in read_hashes(broker, [of("job", text(job)) for job in ids or ()], _TIMES):
            if fields["fq_state"] != "finished":
                continue
            _, began = delivered(fields, state_of(fields, ""))
            enqueued = whole(fields["fq_enqueued"])
            if began is not None and enqueued is not None:
                waits.append(max(0, began - enqueued) / 1000)
            spent = written(fields["fq_timing"], dict).get("execution_ms")
            if isinstance(spent, int | float):
                executions.append(spent / 1000)
    return found
