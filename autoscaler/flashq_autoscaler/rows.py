"""The broker's rows as views, and views as what the broker keeps of them. Pure.

A record that cannot be read raises ValueError: whoever asks makes it Unknown, never zero.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast, get_args

from flashq.model.host_command import required
from flashq_autoscaler.views import (
    Condition,
    EndpointView,
    GpuView,
    HostView,
    Needs,
    Withheld,
    WorkerState,
    WorkerView,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.gpu_leases import GpuLease
    from flashq.store.records import Observed
    from flashq.store.workers import WorkerRow

HOPELESS = 2
"""So many starts in a row that would fail again: the jobs that wait are failed with the reason."""
_STATES = frozenset(get_args(WorkerState))
_REASON = 300  # characters of a failed start's text that a condition quotes


def endpoint_view(
    name: str, seen: Observed, *, service_s: float | None, cold_s: float | None
) -> EndpointView:
    """An endpoint from its record and queue. Raises ValueError where the record cannot be read."""
    record, now_ms = seen.record, seen.now_ms
    try:
        scaling, resources, python = _settings(record["scaling"], record["spec"])
        failures = counted_failures(record)
        return EndpointView(
            name=name,
            revision=record["revision"],
            environment=record["resources"],
            minimum=int(scaling["workers_min"]),
            maximum=int(scaling["workers_max"]),
            idle_timeout_s=_finite(scaling["idle_timeout"]),
            queued=seen.queued,
            waits_s=tuple(max(0, now_ms - at) / 1000 for at in sorted(seen.enqueued_ms)),
            running=len(seen.began_ms),
            elapsed_s=tuple(max(0, now_ms - at) / 1000 for at in seen.began_ms if at),
            service_s=service_s,
            cold_s=cold_s,
            scaler_type=scaling["scaler_type"],
            scaler_value=_finite(scaling["scaler_value"]),
            concurrency=int(resources["concurrency"]),
            needs=needs(resources, python),
            paused=record.get("paused") == "1",
            failures=failures,
            first_failure_at=_seconds(record.get("first_failed_at")) if failures else None,
            last_failure_at=_seconds(record.get("failed_at")) if failures else None,
            last_failure_reason=record.get("failure", "").partition("\n")[0][:_REASON],
            condition=_condition(record.get("condition", "")),
            withheld=_withheld(name, record.get("withheld", "")),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=1024)
def _settings(scaling: str, spec: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """`scaling`, `resources` and the Python version of an endpoint; read anew only when they have changed."""
    read = json.loads(spec)
    python = (read.get("environment") or {}).get("python", "")
    return json.loads(scaling), read["resources"], str(python)


def counted_failures(record: Mapping[str, str]) -> int:
    """Failed starts that hold further ones back.

    One that would fail again is tried again at once; from `HOPELESS` of them on they count like the rest, so
    that what has mended itself (a package index, a model hub) is found out, seldom.
    """
    failures, broken = int(record.get("failures") or 0), int(record.get("broken") or 0)
    return failures if broken >= HOPELESS else max(0, failures - broken)


def needs(resources: Mapping[str, Any], python: str = "") -> Needs:
    """What one worker takes of a host, from the spec's `resources` and its Python version."""
    gpu, cpu = resources.get("gpu"), resources.get("cpu")
    beside = Needs(
        labels=tuple(resources.get("labels") or ()),
        datacenters=tuple(resources.get("datacenters") or ()),
        python=python,
        requires=required(resources),
    )
    if gpu is not None:
        return replace(
            beside,
            gpus=int(gpu["count"]),
            gpu_models=tuple(gpu["products"]),
            gpu_others=bool(gpu.get("others")),
            cuda=str(gpu.get("cuda", "")),
        )
    if cpu is not None:
        cores, gib = _finite(cpu["cores"] or 0), int(cpu["memory_gib"] or 0)
        return replace(beside, cpus=cores, memory_bytes=gib << 30)
    return beside


def worker_view(row: WorkerRow, endpoint: str, now: float, *, current: str | None) -> WorkerView:
    """A worker from its record. Raises ValueError where that cannot be read.

    `current` is its endpoint's environment, for a worker that has not named its own yet; None: the endpoint
    is gone. Who is silent is for REAP to judge, which has just run and spares everybody for a lease after an
    outage: whoever is on record counts as heard. Only the workers of an endpoint that is gone have no REAP.
    A worker started by hand counts as idle since just now: it stays until a person ends it.
    """
    state = row.state or "initializing"
    beat_at = (row.beat_ms or 0) / 1000 or now
    lease_s = max(0.0, row.expires_ms / 1000 - beat_at)
    by_hand = bool(row.fields) and row.ordered_ms is None
    return WorkerView(
        id=row.id,
        endpoint=endpoint,
        host=row.host,
        state=cast("WorkerState", state) if state in _STATES else "running",
        revision=row.revision,
        environment=row.resources or current or "",
        since=now if by_hand else (row.since_ms or 0) / 1000 or now,
        beat_at=beat_at if current is None else max(beat_at, now - lease_s),
        lease_s=lease_s,
        draining=row.draining,
        jobs=row.jobs,
        reported=row.reported,
        gpu_uuids=row.gpus,
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
    )


def host_view(
    host: str, fields: Mapping[str, str], expires_ms: float, leases: Mapping[str, GpuLease] | None = None
) -> HostView:
    """A host from its record, and the leases of GPUs. Raises ValueError where that cannot be read."""
    if fields.get("frees") != "1":  # of an older version: leases end there with their workers
        leases = None
    try:
        beat_at = int(fields["beat"]) / 1000
        return HostView(
            id=host,
            beat_at=beat_at,
            lease_s=expires_ms / 1000 - beat_at,
            cpus=_finite(fields["cpus"]) if fields.get("cpus") else None,
            memory_bytes=int(fields["memory_bytes"]) if fields.get("memory_bytes") else None,
            gpus=tuple(_gpu(gpu, leases or {}) for gpu in json.loads(fields.get("gpus") or "[]")),
            gpu_faults=tuple(str(fault) for fault in json.loads(fields.get("gpu_faults") or "[]")),
            cuda=fields.get("cuda", ""),
            fallback_cpu=fields.get("fallback_cpu") == "1",
            draining=fields.get("draining") == "1",
            labels=frozenset(label for label in fields.get("labels", "").split(",") if label),
            pythons=tuple(python for python in fields.get("pythons", "").split(",") if python),
            lacks=tuple(
                (str(what), str(why)) for what, why in json.loads(fields.get("lacks") or "{}").items()
            ),
            slots=int(fields["slots"]) if fields.get("slots") else None,
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _gpu(gpu: Mapping[str, Any], leases: Mapping[str, GpuLease]) -> GpuView:
    lease = leases.get(str(gpu["uuid"]))
    return GpuView(
        uuid=str(gpu["uuid"]),
        name=str(gpu["name"]),
        memory_bytes=int(gpu["memory_bytes"]),
        foreign=bool(gpu["foreign"]),
        fault=str(gpu.get("fault", "")),
        leased="" if lease is None else lease.worker,
        kept="" if lease is None else lease.why,
    )


def condition_json(condition: Condition | None) -> str:
    """What an endpoint's record keeps as its condition; empty: none."""
    return "" if condition is None else json.dumps(asdict(condition))


def _condition(written: str) -> Condition | None:
    return Condition(**json.loads(written)) if written else None


def withheld_json(withheld: Withheld) -> str:
    """What an endpoint's record keeps of a start held back."""
    return json.dumps({"code": withheld.code, "detail": withheld.detail, "due_at": withheld.due_at})


def _withheld(endpoint: str, written: str) -> Withheld | None:
    return Withheld(endpoint, **json.loads(written)) if written else None


def _finite(value: Any) -> float:
    """A number to reckon with. Raises ValueError, TypeError: infinity and what is no number make no plan."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no quantity")
    return number


def _seconds(ms: str | None) -> float | None:
    return _finite(ms) / 1000 if ms else None
