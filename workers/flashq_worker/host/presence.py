"""What a host agent says to the broker and asks of it: heartbeats, workers that are no more, the time.

Blocking calls; each may raise BrokerError, and may then be made again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq import __version__
from flashq.errors import EnvelopeError
from flashq.model import host_command
from flashq.model.envelope import open_sealed
from flashq.model.host_command import StartWorker
from flashq.model.keyring import Direction
from flashq.store import gpu_leases
from flashq.store.command import text
from flashq.store.queries_workers import standing
from flashq_worker.environments.expiry import Limits
from flashq_worker.gpus.hygiene import judge
from flashq_worker.host import inventory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from flashq.model.durability import Durability
    from flashq.model.envelope import RootKeys
    from flashq.store.broker import Broker
    from flashq.store.command import Value
    from flashq.store.workers import WorkerRow
    from flashq_worker.gpus.nvml import Gpus
    from flashq_worker.gpus.records import Sample
    from flashq_worker.host.offers import HostOffers

log = logging.getLogger("flashq.host")
_FREEING_CHECK_S = 0.25  # how often a GPU whose worker has ended is looked at until it is free


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What the operator says of this host."""

    lease_s: float = 15.0
    payload_limit: int = 64 * 2**20
    durability: Durability | None = None
    """What an acknowledged call is to survive; see FLASHQ_DURABILITY."""
    drain_s: float = 30.0
    """How long workers may finish their jobs when the host ends."""
    labels: tuple[str, ...] = ()
    freeing_s: float = 10.0
    """How long a GPU may take to be free after its worker's end, before it is kept from workers."""
    slots: int | None = None
    """Workers at once, at most; None: not limited."""
    fallback_cpu: bool = False
    """Without any GPU, run `gpu=` endpoints on the CPU."""
    spare: bool = True
    """Keep processes ready for the next start: one with a worker's imports done, and zygotes."""
    engine: str = ""
    """The container engine, `podman` or `docker`; empty: the first that is there."""
    engine_options: tuple[str, ...] = ()
    """What each container is run with beside."""
    environments: Limits = field(default_factory=Limits)
    """How long environments are kept, and how many."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that is no more, to be told to the broker."""

    worker: str
    endpoint: str
    why: str
    before_ready: bool | None = False
    """Whether its start failed; None: it did if it had not become ready."""
    gpu_uuids: tuple[str, ...] = ()


class HostPresence:
    """The record of one host, and those of the workers on it."""

    def __init__(
        self,
        broker: Broker,
        host: str,
        options: HostOptions,
        gpus: Gpus,
        offers: HostOffers,
        keyring: RootKeys,
    ) -> None:
        self.host = host
        self._broker = broker
        self._transitions = broker.transitions
        self._options = options
        self._gpus = gpus
        self._offers = offers
        self._keyring = keyring
        self._clock_offset_ms = 0.0
        self._started_ms = 0
        self._freeing: dict[
            tuple[str, int], float
        ] = {}  # GPUs and fences of leases whose workers ended: since when
        self.beat_at = 0.0
        """When the next heartbeat is due (monotonic)."""
        self.epoch = 0
        """The newest epoch that a command was given under."""
        self.refused_epoch: int | None = None
        """That of the last command that was refused because a newer one was known."""
        self.known_epoch = 0
        """The newest that the broker knows, as of the last heartbeat."""

    def now_ms(self) -> int:
        """The broker's clock, as of the last answer."""
        return int(time.monotonic() * 1000 + self._clock_offset_ms)

    def ask_time(self) -> int:
        """The broker's clock now, in milliseconds."""
        seconds, micros = (int(part) for part in self._broker.execute("TIME"))
        self._set_clock(seconds * 1000 + micros // 1000)
        return self.now_ms()

    def _set_clock(self, now_ms: int) -> None:
        self._clock_offset_ms = now_ms - time.monotonic() * 1000

    def beat(self, held: Collection[str], *, draining: bool) -> None:
        """Say that this host lives and what it has; `held`: the GPUs its workers have."""
        if not self._started_ms:
            self._started_ms = self.ask_time()
        found = self._gpus.sample(held)
        lease_s = self._options.lease_s
        fields = {**self._fields(found), "draining": int(draining)}
        beat = self._broker.run(
            self._transitions.host_beat(
                self.host,
                lease_ms=int(lease_s * 1000),
                fields=fields,
                epoch=self.epoch,
                refused_epoch=self.refused_epoch,
            )
        )
        self._set_clock(beat.now_ms)
        self.known_epoch = beat.epoch
        self._settle(found, held)
        self.beat_at = time.monotonic() + (_FREEING_CHECK_S if self._freeing else lease_s / 3)

    def _settle(self, found: Sample, held: Collection[str]) -> None:
        """Give back GPUs whose workers have ended, once they are free; those that are not in time are kept."""
        now = time.monotonic()
        leases = gpu_leases.of(self._broker, [gpu.uuid for gpu in found.gpus if gpu.uuid not in held])
        limit_s = self._options.freeing_s
        freeing: dict[tuple[str, int], float] = {}
        for uuid, lease in leases.items():
            gpu, name = found.of(uuid), (uuid, lease.fence)
            assert gpu is not None
            since = self._freeing.get(name, now)
            verdict = judge(
                gpu, held=bool(lease.worker), kept=bool(lease.why), waited_s=now - since, limit_s=limit_s
            )
            if verdict is None:
                if lease.worker:
                    freeing[name] = since
                continue
            told = self._transitions.gpu_free(uuid, lease.fence, self.host, verdict.why)
            if self._broker.run(told) == "ok" and (verdict.why or lease.why):
                log.warning("GPU %s (%s) is %s", uuid, gpu.name, verdict.why or "free again")
        self._freeing = freeing

    def _fields(self, found: Sample) -> dict[str, Value]:
        options = self._options
        return {
            "hostname": inventory.hostname(),
            "pid": os.getpid(),
            "version": __version__,
            "cpus": f"{inventory.cores():g}",
            "memory_bytes": inventory.memory_bytes(),
            "gpus": json.dumps([gpu.as_dict() for gpu in found.gpus]),
            "gpu_faults": json.dumps(found.faults),
            "driver": found.driver,
            "cuda": found.cuda,
            "keys": ",".join(self._keyring.ids),
            "labels": ",".join(options.labels),
            **self._offers.fields(),
            "frees": 1,  # it gives leases of GPUs back: they outlive its workers
            "fallback_cpu": int(options.fallback_cpu),
            "slots": "" if options.slots is None else options.slots,
            "started_at": self._started_ms,
        }

    def report(self, loss: Loss, held: Collection[str], *, draining: bool) -> bool:
        """Have requeued what a worker held; False where it had left in order. Then its GPUs are looked at."""
        failed = loss.before_ready
        if failed is None:
            (row,) = standing(self._broker, [loss.worker])
            failed = row.state == "initializing"
        left = self._transitions.leave(loss.endpoint, loss.worker, loss.why, before_ready=failed)
        recovered = self._broker.run(left) >= 0
        if loss.gpu_uuids:
            self.beat(held, draining=draining)
        return recovered

    def drain(self, endpoints: Mapping[str, str], why: str) -> None:
        """Have workers (with their endpoints) take nothing more."""
        self._broker.run_all(
            [self._transitions.drain(e, worker, why, force=True) for worker, e in endpoints.items()]
        )

    def predecessors(self) -> list[Loss]:
        """The workers on record that an agent before this one ran here: their lifeline ended with it."""
        return [
            Loss(row.id, endpoint, "the host agent that ran it ended")
            for endpoint, row in self._on_record()
            if row.reported
        ]

    def unheard(self, own: Collection[str]) -> list[Loss]:
        """The workers that were ordered here and that nobody will start: neither are they among `own`, nor does the
        word for them wait on the list. It was taken off by an agent that has ended, or on a connection that has.

        Asked before the first word is taken from the list on a new connection.
        """
        ordered = [(endpoint, row) for endpoint, row in self._on_record() if not row.reported]
        if not ordered:
            return []
        words = self._broker.execute("LRANGE", self._broker.keys.of("commands", self.host), 0, -1)
        to_come = {*own, *(worker for word in words for worker in self._ordered_by(word))}
        return [
            Loss(row.id, endpoint, "its host agent never got the word to start it")
            for endpoint, row in ordered
            if row.id not in to_come
        ]

    def _ordered_by(self, word: bytes) -> tuple[str, ...]:
        """The worker that a word on the list is to start; none where it is another, or one that will be refused."""
        try:
            opened = open_sealed(
                word,
                self._keyring,
                direction=Direction.HOST_COMMAND,
                host=self.host,
                now_ms=self.now_ms(),
                max_bytes=host_command.MAX_BYTES,
            )
            command = host_command.unpack(opened.payload)
        except EnvelopeError:
            return ()
        return (command.worker,) if isinstance(command, StartWorker) else ()

    def _on_record(self) -> list[tuple[str, WorkerRow]]:
        """The workers of this host that the broker counts on, with their endpoints."""
        broker, keys = self._broker, self._broker.keys
        names = [text(name) for name in broker.execute("SMEMBERS", keys.of("endpoints"))]
        listed = broker.execute_all([("ZRANGE", keys.of("endpoint_workers", name), 0, -1) for name in names])
        pairs = [(name, text(worker)) for name, row in zip(names, listed, strict=True) for worker in row]
        rows = standing(broker, [worker for _, worker in pairs])
        return [
            (endpoint, row) for (endpoint, _), row in zip(pairs, rows, strict=True) if row.host == self.host
        ]

    def given_up(self, held: Iterable[str]) -> set[str]:
        """Those of these workers that the broker does not count on any more: lost, or left."""
        return {row.id for row in standing(self._broker, list(held)) if not row.counts}

    def leave(self) -> None:
        """Take the host off the list."""
        self._broker.run(self._transitions.host_leave(self.host))
