"""What the scaling tests share: builders of views, and a pure stand-in for `apply`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashq_autoscaler.reconcile import DeclareLost, DrainWorker, Note, SetCondition, StartWorker
from flashq_autoscaler.views import (
    EndpointView,
    GpuView,
    HostView,
    Needs,
    Snapshot,
    Unknown,
    WorkerView,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flashq_autoscaler.reconcile import Action

NOW = 1_800_000_000.0
GIB = 2**30
GPU = Needs(gpus=1)


def endpoint(
    name: str = "embed", workers: tuple[int, int] = (0, 3), queued: int = 0, **fields: Any
) -> EndpointView:
    """An endpoint on environment `env`; queued jobs have just come unless `waits_s` says otherwise."""
    defaults: dict[str, Any] = {"revision": "r1", "environment": "env", "idle_timeout_s": 60.0}
    defaults["waits_s"] = (0.0,) * min(queued, 50)
    minimum, maximum = workers
    return EndpointView(name=name, minimum=minimum, maximum=maximum, queued=queued, **(defaults | fields))


def worker(
    name: str = "w1", state: str = "idle", endpoint: str = "embed", age_s: float = 1.0, **fields: Any
) -> WorkerView:
    """A worker that entered `state` `age_s` ago and has a fresh heartbeat; a running one holds a job."""
    defaults: dict[str, Any] = {
        "host": "h1", "revision": "r1", "environment": "env", "since": NOW - age_s, "beat_at": NOW,
        "jobs": int(state == "running"),
    }  # fmt: skip
    return WorkerView(id=name, endpoint=endpoint, state=state, **(defaults | fields))  # type: ignore[arg-type]


def host(name: str = "h1", gpus: Sequence[GpuView | str] = (), **fields: Any) -> HostView:
    """A host with a fresh heartbeat and no limits but its GPUs, which may be given as UUIDs."""
    views = tuple(gpu if isinstance(gpu, GpuView) else GpuView(gpu, "NVIDIA L4", 24 * GIB) for gpu in gpus)
    return HostView(id=name, gpus=views, **({"beat_at": NOW} | fields))


def snapshot(
    endpoints: EndpointView | Iterable[EndpointView] | Unknown = (),
    workers: Iterable[WorkerView] | Unknown = (),
    hosts: Iterable[HostView] | Unknown | None = None,
    now: float = NOW,
) -> Snapshot:
    """A snapshot on one host without limits, unless others are given."""
    if isinstance(endpoints, EndpointView):
        endpoints = (endpoints,)
    return Snapshot(
        now,
        endpoints if isinstance(endpoints, Unknown) else tuple(endpoints),
        workers if isinstance(workers, Unknown) else tuple(workers),
        (host(),) if hosts is None else hosts if isinstance(hosts, Unknown) else tuple(hosts),
    )


def simulate_apply(before: Snapshot, actions: Iterable[Action]) -> Snapshot:
    """What the broker shows right after `actions`: the same moment, the same queues, nothing else moved."""
    assert not isinstance(before.workers, Unknown)
    assert not isinstance(before.endpoints, Unknown)
    workers = {worker.id: worker for worker in before.workers}
    endpoints = {endpoint.name: endpoint for endpoint in before.endpoints}
    for action in actions:
        match action:
            case DeclareLost(stop):
                workers[stop.worker] = replace(workers[stop.worker], state="unhealthy", jobs=0)
            case DrainWorker(drain):
                workers[drain.worker] = replace(workers[drain.worker], draining=True)
            case StartWorker(start):
                id_ = f"{start.endpoint}-started-{len(workers)}"
                workers[id_] = WorkerView(
                    id=id_, endpoint=start.endpoint, host=start.host, state="initializing",
                    revision=start.revision, environment=start.environment, since=before.now,
                    beat_at=before.now, reported=False, gpu_uuids=start.gpu_uuids, cpus=start.cpus,
                    memory_bytes=start.memory_bytes,
                )  # fmt: skip
            case SetCondition(name, condition):
                endpoints[name] = replace(endpoints[name], condition=condition)
            case Note(withheld):
                endpoints[withheld.endpoint] = replace(endpoints[withheld.endpoint], withheld=withheld)
    return replace(before, endpoints=tuple(endpoints.values()), workers=tuple(workers.values()))
