"""What hosts and the autoscaler ask of workers' records. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.workers import WorkerRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.broker import Broker

_STANDING = ("fq_ep", "fq_host", "fq_state", "pid", "death")


def standing(broker: Broker, workers: Sequence[str]) -> list[WorkerRow]:
    """How these workers stand: their endpoint, host and state, whether they have reported in, and count."""
    replies = broker.read_all([("HMGET", broker.keys.of("worker", w), *_STANDING) for w in workers])
    return [
        WorkerRow(
            worker,
            0,
            {name: text(v) for name, v in zip(_STANDING, reply or (), strict=False) if v is not None},
        )
        for worker, reply in zip(workers, replies, strict=True)
    ]


def endpoints_of_all(broker: Broker) -> set[str]:
    """The endpoints of all workers on record: those of undeployed ones are found nowhere else."""
    keys = broker.execute("SMEMBERS", broker.keys.of("rq_workers"))
    return {text(name) for name in broker.read_all([("HGET", key, "fq_ep") for key in keys]) if name}
