"""Endpoints, workers, hosts and autoscalers as people see them. Reads only (see `queries`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.errors import EndpointNotFound, HostNotFound
from flashq.store import gpu_leases
from flashq.store.command import mapping, text
from flashq.store.queries import decimal, moment, read_hashes, whole, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from flashq.store.broker import Broker
    from flashq.store.gpu_leases import GpuLease

WORKER_STATES = ("initializing", "idle", "running", "throttled", "outdated", "unhealthy")
_LEASES = 1000  # jobs in progress that are looked at to say which worker runs what


@dataclass(frozen=True, slots=True)
class ListedEndpoint:
    """One endpoint. Six counts of workers; those throttled or unhealthy are wanted and cannot start."""

    name: str
    revision: str
    workers_min: int | None
    workers_max: int | None
    initializing: int
    idle: int
    running: int
    throttled: int
    outdated: int
    unhealthy: int
    paused: bool
    scaled: bool
    """Whether an operator set its workers or idle_timeout (`flashq scale`), in place of what its program says."""
    registered_at: datetime | None
    """When it was last updated, or first registered."""
    previous: str | None
    """The revision before that: what `flashq endpoints NAME --rollback` goes back to."""
    reason: str | None  # why workers are throttled or unhealthy, or that it is paused
    since: datetime | None  # since when that is so


@dataclass(frozen=True, slots=True)
class ListedWorker:
    """One worker."""

    id: str
    endpoint: str
    state: str | None  # one of WORKER_STATES; None: its record is gone
    host: str | None
    pid: int | None
    since: datetime | None  # when it entered its state
    job: str | None  # what it runs; of several jobs at once the one begun first
    draining: bool
    reason: str | None  # why it drains, or is outdated


@dataclass(frozen=True, slots=True)
class ListedHost:
    """One machine that can run workers. `state`: ready, draining, or silent (its heartbeat is overdue).

    Draining: it takes no more workers, and those that it has finish what they hold; as its agent ends, or by an
    operator's word.
    """

    id: str
    hostname: str | None
    cpus: float | None
    memory: int | None  # bytes
    gpus: list[dict[str, Any]]
    """uuid, name, memory_bytes, foreign (in use by others), worker (that has its lease), kept (why, from all), …"""
    gpu_faults: list[str]  # what its driver does not tell of them
    driver: str | None
    cuda: str | None  # the newest that the driver can run
    workers: int
    since: datetime | None
    state: str
    drained_since: datetime | None
    """Since when it is drained by an operator's word; None: it is not."""
    drain_reason: str | None
    labels: list[str]
    pythons: list[str]  # versions it has: "3.11"
    engine: str | None  # that runs containers: "podman 4.3.1"
    lacks: list[str]  # what endpoints require and it has not, with why


@dataclass(frozen=True, slots=True)
class ListedEnvironment:
    """One set of dependencies, as it is installed on a host."""

    digest: str
    python: str
    requirements: list[str]
    packages: list[str]  # what these were resolved to: name==version
    size: int | None  # bytes; most are shared with the installer's cache
    endpoints: list[str]  # that want it now
    built_at: datetime | None
    used_at: datetime | None  # when it was last seen in use


@dataclass(frozen=True, slots=True)
class HostDetail(ListedHost):
    """A host with what is installed there."""

    environments: list[ListedEnvironment]


@dataclass(frozen=True, slots=True)
class ListedAutoscaler:
    """One autoscaler. `state`: leads, silent (it led, and its lease is over), or stands by."""

    id: str
    state: str
    epoch: int | None = None
    """The leader's; it rises each time another takes over."""
    since: datetime | None = None
    """Since when the leader leads."""


# -- names -------------------------------------------------------------------------------------------


def now_ms(broker: Broker) -> int:
    """The broker's clock."""
    seconds, microseconds = broker.execute("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


def endpoint_names(broker: Broker) -> list[str]:
    """Every registered endpoint, sorted."""
    return sorted(text(name) for name in broker.execute("SMEMBERS", broker.keys.of("endpoints")))


def require_endpoint(broker: Broker, endpoint: str) -> None:
    """Raises EndpointNotFound."""
    if not broker.execute("EXISTS", broker.keys.of("endpoint", endpoint)):
        raise EndpointNotFound(f"no endpoint {endpoint} is registered: see `flashq endpoints`")


def queue_names(broker: Broker, endpoints: Sequence[str]) -> dict[str, list[str]]:
    """The queues of each endpoint: its own first, then siblings that hold or once held jobs, sorted."""
    known, *ranked = broker.execute_all(
        [
            ("SMEMBERS", broker.keys.of("queues")),
            *(("ZRANGE", broker.keys.of("endpoint_queues", name), 0, -1) for name in endpoints),
        ]
    )
    root = broker.keys.of("queue")
    pairs = zip(endpoints, ranked, strict=True)
    siblings = {name: {text(queue) for queue in queues} for name, queues in pairs}
    for queue in (text(key).removeprefix(root) for key in known):
        owner, separator, _ = queue.partition("--")
        if separator and owner in siblings:
            siblings[owner].add(queue)
    return {name: [name, *sorted(siblings[name] - {name})] for name in endpoints}


# -- endpoints and workers ---------------------------------------------------------------------------

_ENDPOINT = (
    "revision",
    "scaling",
    "environment",
    "resources",
    "condition",
    "paused",
    "registered_at",
    "previous_revision",
    "declared",
    "condition_since",
    "paused_at",
)
_HOST = (
    "hostname",
    "cpus",
    "memory_bytes",
    "gpus",
    "gpu_faults",
    "driver",
    "cuda",
    "started_at",
    "draining",
    "labels",
    "pythons",
    "engine",
    "lacks",
)
_WORKER = (
    "fq_state",
    "fq_since",
    "fq_host",
    "hostname",
    "fq_env",
    "fq_drain",
    "fq_drain_why",
    "fq_building",
    "pid",
)


def _records(broker: Broker, names: list[str]) -> dict[str, dict[str, str]]:
    hashes = read_hashes(broker, [broker.keys.of("endpoint", name) for name in names], _ENDPOINT)
    records = dict(zip(names, hashes, strict=True))
    return {name: record for name, record in records.items() if record["revision"]}


def _workers(broker: Broker, names: Iterable[str]) -> dict[str, dict[str, dict[str, str]]]:
    """The hashes of all workers, by endpoint and id; empty for one whose record is gone."""
    of, names = broker.keys.of, list(names)
    members = broker.execute_all([("ZRANGE", of("endpoint_workers", name), 0, -1) for name in names])
    fleets = {name: sorted(text(w) for w in reply) for name, reply in zip(names, members, strict=True)}
    ids = [worker for fleet in fleets.values() for worker in fleet]
    hashes = read_hashes(broker, [of("worker", worker) for worker in ids], _WORKER)
    records = dict(zip(ids, hashes, strict=True))
    return {name: {worker: records[worker] for worker in fleet} for name, fleet in fleets.items()}


def _worker_state(worker: dict[str, str], record: dict[str, str]) -> str | None:
    """Its state; outdated where the endpoint's environment or resources have changed since it was ordered."""
    environment = worker["fq_env"]
    if worker["fq_state"] and environment and environment not in (record["environment"], record["resources"]):
        return "outdated"
    return worker["fq_state"] or None


def _outdated(worker: dict[str, str], record: dict[str, str]) -> str | None:
    """Why a worker is outdated; None where it is not."""
    if _worker_state(worker, record) != "outdated":
        return None
    return "its endpoint's dependencies or resources have changed since it was ordered"


def _building(worker: dict[str, str]) -> str | None:
    return "its environment is being built" if whole(worker["fq_building"]) else None


def endpoints(broker: Broker) -> list[ListedEndpoint]:
    """Every endpoint, by name. Raises BrokerError."""
    records = _records(broker, endpoint_names(broker))
    workers = _workers(broker, records)
    return [_endpoint(name, record, workers[name]) for name, record in records.items()]


def wait_reason(record: Mapping[str, str]) -> str:
    """Why an endpoint's jobs are not begun, by its record; '' where it has what it wants."""
    condition = written(record.get("condition"), dict)
    reasons = ["paused"] if record.get("paused") == "1" else []
    told = condition.get("detail") or condition.get("reason")
    return "; ".join([*reasons, *([str(told)] if told else [])])


def _endpoint(name: str, record: dict[str, str], workers: dict[str, dict[str, str]]) -> ListedEndpoint:
    counts = Counter(_worker_state(worker, record) for worker in workers.values())
    condition, scaling = written(record["condition"], dict), written(record["scaling"], dict)
    kept_from_starting = condition.get("state")
    if kept_from_starting in WORKER_STATES:
        counts[kept_from_starting] += whole(str(condition.get("workers"))) or 0
    return ListedEndpoint(
        name=name,
        revision=record["revision"],
        workers_min=whole(str(scaling.get("workers_min"))),
        workers_max=whole(str(scaling.get("workers_max"))),
        paused=record["paused"] == "1",
        scaled=record["declared"] not in ("", record["scaling"]),
        registered_at=moment(record["registered_at"]),
        previous=record["previous_revision"] or None,
        reason=wait_reason(record) or None,
        since=moment(record["paused_at"] if record["paused"] == "1" else record["condition_since"]),
        **{state: counts[state] for state in WORKER_STATES},
    )


def workers(broker: Broker) -> list[ListedWorker]:
    """Every worker, by endpoint and id. Raises BrokerError."""
    records = _records(broker, endpoint_names(broker))
    fleets = _workers(broker, records)
    held = _held(broker, [name for name, fleet in fleets.items() if fleet])
    return [
        ListedWorker(
            id=worker,
            endpoint=name,
            state=_worker_state(fields, records[name]),
            host=fields["fq_host"] or fields["hostname"] or None,
            pid=whole(fields["pid"]),
            since=moment(fields["fq_since"]),
            job=held.get(worker),
            draining=fields["fq_drain"] == "1",
            reason=fields["fq_drain_why"] or _outdated(fields, records[name]) or _building(fields),
        )
        for name, fleet in fleets.items()
        for worker, fields in fleet.items()
    ]


def _held(broker: Broker, names: list[str]) -> dict[str, str]:
    """Which job each worker runs: of several the one begun first, of none begun any it holds."""
    of = broker.keys.of
    leased = broker.execute_all([("ZRANGE", of("leases", name), 0, _LEASES - 1) for name in names])
    ids = [text(i) for of_one in leased for i in of_one]
    hashes = read_hashes(broker, [of("job", i) for i in ids], ("worker_name", "fq_state", "fq_began"))
    best: dict[str, tuple[bool, int, str]] = {}
    for job_id, fields in zip(ids, hashes, strict=True):
        rank = (fields["fq_state"] != "running", whole(fields["fq_began"]) or 0, job_id)
        worker = fields["worker_name"]
        best[worker] = min(best.get(worker, rank), rank)
    return {worker: job_id for worker, (_, _, job_id) in best.items()}


# -- hosts -------------------------------------------------------------------------------------------


def hosts(broker: Broker) -> list[ListedHost]:
    """Every host, by id. Raises BrokerError."""
    reply = broker.execute("ZRANGE", broker.keys.of("hosts"), 0, -1, "WITHSCORES")
    silent_at = {text(reply[i]): float(reply[i + 1]) for i in range(0, len(reply), 2)}
    names = sorted(silent_at)
    hashes = read_hashes(broker, [broker.keys.of("host", name) for name in names], _HOST)
    leases = gpu_leases.parse_all(broker.execute("HGETALL", broker.keys.of("gpus")))
    drains = mapping(broker.execute("HGETALL", broker.keys.of("drains")))
    at = now_ms(broker)
    fleets = _workers(broker, endpoint_names(broker)).values()
    placed = Counter(fields["fq_host"] for fleet in fleets for fields in fleet.values())
    rows = []
    for name, fields in zip(names, hashes, strict=True):
        since, _, why = drains.get(name, "").partition(" ")
        state = "draining" if since or fields["draining"] == "1" else "ready"
        rows.append(
            ListedHost(
                id=name,
                hostname=fields["hostname"] or None,
                cpus=decimal(fields["cpus"]),
                memory=whole(fields["memory_bytes"]),
                gpus=[_gpu(gpu, leases) for gpu in written(fields["gpus"], list) if isinstance(gpu, dict)],
                gpu_faults=[str(fault) for fault in written(fields["gpu_faults"], list)],
                driver=fields["driver"] or None,
                cuda=fields["cuda"] or None,
                workers=placed[name],
                since=moment(fields["started_at"]),
                state="silent" if silent_at[name] < at else state,
                drained_since=moment(since),
                drain_reason=why or None,
                labels=[label for label in fields["labels"].split(",") if label],
                pythons=[python for python in fields["pythons"].split(",") if python],
                engine=fields["engine"] or None,
                lacks=[f"{what} ({why})" for what, why in written(fields["lacks"], dict).items()],
            )
        )
    return rows


def _gpu(told: dict[str, Any], leases: Mapping[str, GpuLease]) -> dict[str, Any]:
    """A GPU as its host tells of it, and who has its lease."""
    lease = leases.get(str(told.get("uuid")))
    worker, kept = (None, None) if lease is None else (lease.worker or None, lease.why or None)
    return {**told, "worker": worker, "kept": kept}


def workers_on(broker: Broker, host: str) -> int:
    """How many workers are on record on a host. Raises BrokerError."""
    fleets = _workers(broker, endpoint_names(broker)).values()
    return sum(fields["fq_host"] == host for fleet in fleets for fields in fleet.values())


def host(broker: Broker, name: str) -> HostDetail:
    """One host. Raises HostNotFound, BrokerError."""
    found = next((row for row in hosts(broker) if row.id == name), None)
    if found is None:
        raise HostNotFound(f"no host {name} is on record: see `flashq hosts`")
    records = _records(broker, endpoint_names(broker))
    (told,) = read_hashes(broker, [broker.keys.of("host_environments", name)], ("listed",))
    listed = [_environment(one, records) for one in written(told["listed"], list) if isinstance(one, dict)]
    return HostDetail(**{part: getattr(found, part) for part in ListedHost.__slots__}, environments=listed)


def _environment(told: Mapping[str, Any], records: Mapping[str, Mapping[str, str]]) -> ListedEnvironment:
    digest = str(told.get("digest", ""))
    return ListedEnvironment(
        digest=digest,
        python=str(told.get("python", "")),
        requirements=[str(one) for one in told.get("requirements") or ()],
        packages=[str(one) for one in told.get("packages") or ()],
        size=whole(str(told.get("size_bytes"))),
        endpoints=[name for name, record in records.items() if record["environment"] == digest],
        built_at=moment(str(told.get("built_at"))),
        used_at=moment(str(told.get("used_at"))),
    )


# -- autoscalers -------------------------------------------------------------------------------------


def autoscalers(broker: Broker) -> list[ListedAutoscaler]:
    """The one that leads, if there is one, and those that stand by. Raises BrokerError."""
    of, at = broker.keys.of, now_ms(broker)
    flat, standbys = broker.execute_all(
        [("HGETALL", of("leader")), ("ZRANGEBYSCORE", of("standbys"), f"({at}", "+inf")]
    )
    leader = mapping(flat)
    found = []
    if holder := leader.get("holder"):
        state = "silent" if (whole(leader.get("until")) or 0) < at else "leads"
        found.append(ListedAutoscaler(holder, state, whole(leader.get("epoch")), moment(leader.get("since"))))
    return found + [ListedAutoscaler(text(one), "stands by") for one in sorted(standbys)]
