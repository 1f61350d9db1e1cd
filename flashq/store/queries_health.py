"""What `flashq doctor` asks the broker: who is on record with what, which functions are loaded. Only `load` writes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable
from flashq.store.broker import load
from flashq.store.command import text
from flashq.store.line import LibraryMissing, Line, pack, refusal
from flashq.store.queries import read_hash, read_hashes, whole, written
from flashq.store.queries_fleet import endpoint_names, hosts, now_ms, workers

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_LIBRARIES = "flashq_*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A host, a worker or the leading autoscaler, as its record says."""

    name: str
    silent: bool = False
    silent_s: float | None = None
    """For how long a leader has been; None: not known."""
    version: str = ""
    keys: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everybody on record."""

    hosts: tuple[Process, ...] = ()
    workers: tuple[Process, ...] = ()
    leader: Process | None = None
    standbys: int = 0

    @property
    def processes(self) -> list[Process]:
        """Those that live, as far as the broker knows."""
        everybody = [*self.hosts, *self.workers, *([self.leader] if self.leader else [])]
        return [process for process in everybody if not process.silent]


@dataclass(frozen=True, slots=True)
class Stray:
    """A stock `rq worker` that listens on queues of endpoints."""

    name: str
    queues: tuple[str, ...]


def fleet(broker: Broker) -> Fleet:
    """Everybody on record. Raises BrokerError."""
    of = broker.keys.of
    listed = hosts(broker)
    fields = ("version", "keys", "pythons")
    told = read_hashes(broker, [of("host", host.id) for host in listed], fields)
    machines = [
        Process(
            name=host.id,
            silent=host.state == "silent",
            version=one["version"],
            keys=_words(one["keys"]),
            pythons=_words(one["pythons"]),
            gpus=tuple(str(gpu.get("name")) for gpu in host.gpus),
        )
        for host, one in zip(listed, told, strict=True)
    ]
    names = [worker.id for worker in workers(broker)]
    told = read_hashes(broker, [of("worker", one) for one in names], ("version", "fq_keys", "pid"))
    working = [
        Process(name=name, version=one["version"], keys=_words(one["fq_keys"]))
        for name, one in zip(names, told, strict=True)
        if one["pid"]  # one that was ordered and has not reported says nothing yet
    ]
    return Fleet(
        hosts=tuple(machines),
        workers=tuple(working),
        leader=_leader(broker),
        standbys=int(broker.execute("ZCOUNT", of("standbys"), f"({now_ms(broker)}", "+inf")),
    )


def _leader(broker: Broker) -> Process | None:
    names = ("holder", "until", "version", "keys")
    one = read_hash(broker, broker.keys.of("leader"), names)
    if not one["holder"]:
        return None
    until, at = whole(one["until"]), now_ms(broker)
    return Process(
        name=one["holder"],
        silent=until is None or until <= at,
        silent_s=None if until is None else max(0, at - until) / 1000,
        version=one["version"],
        keys=_words(one["keys"]),
    )


def endpoint_pythons(broker: Broker) -> dict[str, str]:
    """The Python version that each endpoint wants, where its record says. Raises BrokerError."""
    names = endpoint_names(broker)
    records = read_hashes(broker, [broker.keys.of("endpoint", name) for name in names], ("spec",))
    specs = (written(record["spec"], dict).get("environment") for record in records)
    pythons = (spec.get("python") if isinstance(spec, dict) else None for spec in specs)
    return {name: str(python) for name, python in zip(names, pythons, strict=True) if python}


def strays(broker: Broker) -> list[Stray]:
    """Stock workers on endpoints' queues, by RQ's own record of workers. Raises BrokerError."""
    owned = set(endpoint_names(broker))
    keys = sorted(text(key) for key in broker.execute("SMEMBERS", broker.keys.of("rq_workers")))
    root = broker.keys.of("worker")
    records = read_hashes(broker, keys, ("fq_ep", "queues", "birth"))
    found = []
    for key, record in zip(keys, records, strict=True):
        queues = tuple(q for q in record["queues"].split(",") if q.partition("--")[0] in owned)
        if record["birth"] and not record["fq_ep"] and queues:
            found.append(Stray(key.removeprefix(root), queues))
    return found


def library_loaded(broker: Broker) -> bool:
    """Whether the functions of this version are there. Loads nothing. Raises BrokerError.

    Calls one that only reads, without the key it wants: a user who may call functions need not be one who may use it.
    """
    with closing(broker.connect()) as line:
        line.send(pack("FCALL", broker.library.function("epoch"), 0))
        reply = line.read()
    error = refusal(reply) if isinstance(reply, hiredis.ReplyError) else None
    if error is not None and (isinstance(error, BrokerUnreachable) or "NOPERM" in str(error)):
        raise error
    return not isinstance(error, LibraryMissing)


def load_library(broker: Broker) -> bool:
    """Load the functions of this version where they are not there; whether that was needed.

    Raises BrokerRefused where this user may not, BrokerUnreachable.
    """
    if library_loaded(broker):
        return False
    with closing(broker.connect()) as line:
        load(line, broker.library)
    return True


def round_trips_ms(broker: Broker, count: int) -> list[float]:
    """How long each of so many PINGs took, over one connection; to refuse it is an answer too (its disk is full).

    Raises BrokerUnreachable, BrokerRefused where this user is not let in.
    """
    request, times = pack("PING"), []
    with closing(broker.connect()) as line:
        for _ in range(count):
            begun = time.perf_counter()
            line.send(request)
            reply = line.read()
            times.append((time.perf_counter() - begun) * 1000)
            if isinstance(reply, hiredis.ReplyError) and isinstance(
                lost := refusal(reply), BrokerUnreachable
            ):
                raise lost
    return times


def libraries(broker: Broker) -> list[str] | None:
    """Every function library of flashq on the broker, by name; None where this user may not list them.

    Raises BrokerUnreachable.
    """
    try:
        rows = broker.execute("FUNCTION", "LIST", "LIBRARYNAME", _LIBRARIES)
    except BrokerRefused:
        return None
    return sorted(_library_name(row) for row in rows)


def _library_name(row: list[Any]) -> str:
    fields = {text(row[i]): row[i + 1] for i in range(0, len(row), 2)}
    return text(fields["library_name"])


def asks_for_password(url: str, patience_s: float) -> bool | None:
    """Whether the server at `url` (without user and password) refuses who gives none; None where it did not answer."""
    try:
        with closing(Line(url, reply_timeout_s=patience_s)) as line:
            line.call(pack("PING"))
    except BrokerRefused:
        return True
    except BrokerUnreachable as error:
        return True if "NOAUTH" in str(error) or "Authentication" in str(error) else None
    except BrokerError:
        return None
    return False


def _words(written: str) -> tuple[str, ...]:
    return tuple(one for one in written.split(",") if one)
