"""What hosts, the autoscaler and `flashq why` ask of workers' records. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.workers import WorkerRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.broker import Broker

_STANDING = ("fq_ep", "fq_host", "fq_state", "pid", "death")
_TAKING = ("fq_ep", "fq_host", "fq_state", "fq_drain", "fq_building")


def standing(broker: Broker, workers: Sequence[str]) -> list[WorkerRow]:
    """How these workers stand: their endpoint, host and state, whether they have reported in, and count."""
    return _rows(broker, workers, _STANDING)


def _rows(broker: Broker, workers: Sequence[str], names: Sequence[str]) -> list[WorkerRow]:
    replies = broker.read_all([("HMGET", broker.keys.of("worker", w), *names) for w in workers])
    return [
        WorkerRow(
            worker, 0, {name: text(v) for name, v in zip(names, reply or (), strict=False) if v is not None}
        )
        for worker, reply in zip(workers, replies, strict=True)
    ]


def of_endpoint(broker: Broker, endpoint: str) -> list[WorkerRow]:
    """How its workers stand that do not drain: their state and host, and what they build. Raises BrokerError."""
    ids = [
        text(worker)
        for worker in broker.execute("ZRANGE", broker.keys.of("endpoint_workers", endpoint), 0, -1)
    ]
    return [row for row in _rows(broker, ids, _TAKING) if not row.draining]


def one(broker: Broker, worker: str) -> WorkerRow:
    """How a worker stands; without fields where it is on record no longer. Raises BrokerError."""
    return _rows(broker, [worker], _TAKING)[0]


def endpoints_of_all(broker: Broker) -> set[str]:
    """The endpoints of all workers on record: those of undeployed ones are found nowhere else."""
    keys = broker.execute("SMEMBERS", broker.keys.of("rq_workers"))
    return {text(name) for name in broker.read_all([("HGET", key, "fq_ep") for key in keys]) if name}
