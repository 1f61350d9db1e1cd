"""Which signing keys are known where, and what in the broker is signed with one of them. Reads only (see `queries`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.queries import read_hash, read_hashes, whole
from flashq.store.queries_fleet import endpoint_names, hosts, now_ms, queue_names, workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.store.broker import Broker

_PAGE = 200
_HEAD_BYTES = 1024
"""A record's header, with the id of its key, is within so many bytes."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on record that holds signing keys."""

    what: str  # host, worker or autoscaler
    name: str
    keys: tuple[str, ...]  # ids, the signing one first; empty where it does not say


@dataclass(slots=True)
class Uses:
    """What bears the signature of one key."""

    jobs: Counter[str] = field(default_factory=Counter)  # by endpoint: those that have not ended
    ended: Counter[str] = field(default_factory=Counter)  # by endpoint: those that could be run again
    revisions: list[tuple[str, str]] = field(
        default_factory=list
    )  # endpoint and digest: current, or waited for
    environments: list[str] = field(
        default_factory=list
    )  # endpoints whose values of `env=` are sealed with it


def holders(broker: Broker) -> list[Holder]:
    """Every host and worker on record, and the autoscaler that leads; none that is silent. Raises BrokerError."""
    of = broker.keys.of
    alive = [host.id for host in hosts(broker) if host.state != "silent"]
    working = [worker.id for worker in workers(broker)]
    told = [
        *(fields["keys"] for fields in read_hashes(broker, [of("host", host) for host in alive], ("keys",))),
        *(f["fq_keys"] for f in read_hashes(broker, [of("worker", one) for one in working], ("fq_keys",))),
    ]
    names = [*(("host", host) for host in alive), *(("worker", worker) for worker in working)]
    leader = read_hash(broker, of("leader"), ("holder", "until", "keys"))
    if leader["holder"] and (whole(leader["until"]) or 0) > now_ms(broker):
        names.append(("autoscaler", leader["holder"]))
        told.append(leader["keys"])
    return [
        Holder(what, name, tuple(key for key in ids.split(",") if key))
        for (what, name), ids in zip(names, told, strict=True)
    ]


def uses(broker: Broker, key_id: str) -> Uses:
    """Everything that is signed with this key and still of use. Walks every job that waits. Raises BrokerError."""
    found = Uses()
    names = endpoint_names(broker)
    of = broker.keys.of
    for endpoint, queues in queue_names(broker, names).items():
        wanted = set()
        for ids, ended in _ids(broker, endpoint, queues):
            count, revisions = broker.run(broker.transitions.key_uses(endpoint, key_id, ids))
            (found.ended if ended else found.jobs)[endpoint] += count
            wanted |= set() if ended else revisions
        current, earlier, sealed = broker.execute(
            "HMGET", of("endpoint", endpoint), "revision", "previous_revision", "env"
        )
        wanted |= {text(one) for one in (current, earlier) if one}
        heads = broker.execute_all(
            [("GETRANGE", of("revision", endpoint, digest), 0, _HEAD_BYTES - 1) for digest in sorted(wanted)]
        )
        mark = key_id.encode()
        found.revisions += [
            (endpoint, digest) for digest, head in zip(sorted(wanted), heads, strict=True) if mark in head
        ]
        if sealed and mark in sealed[:_HEAD_BYTES]:
            found.environments.append(endpoint)
    found.jobs += Counter()  # which drops the zeros
    found.ended += Counter()
    return found


def _ids(broker: Broker, endpoint: str, queues: list[str]) -> Iterator[tuple[list[str], bool]]:
    """The ids of an endpoint's jobs, a page at a time, and whether they have ended."""
    of = broker.keys.of
    lists = [("LRANGE", of("queue", queue), False) for queue in queues]
    lists += [("ZRANGE", of("scheduled", queue), False) for queue in queues]
    lists += [("ZRANGE", of("leases", endpoint), False)]
    lists += [("ZRANGE", of(kind, queue), True) for kind in ("failed", "canceled") for queue in queues]
    for command, key, ended in lists:
        start = 0
        while page := broker.execute(command, key, start, start + _PAGE - 1):
            yield [text(one) for one in page], ended
            start += _PAGE
