"""The broker's rows as views, and views as what the broker keeps of them. Pure.

A record that cannot be read raises ValueError: whoever asks makes it Unknown, never zero.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast, get_args

from flashq.model.host_command import required
from flashq_autoscaler import written
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
_UNREADABLE = Condition("unhealthy", "GIVEN_UP", "what was on record cannot be read", 0)
_STATES = frozenset(get_args(WorkerState))
_MOST = 1 << 53  # beyond, a number of milliseconds or bytes is not exact any more, and no true one
_REASON = 300  # characters of a failed start's text that a condition quotes


def endpoint_view(
    name: str, seen: Observed, *, service_s: float | None, cold_s: float | None
) -> EndpointView:
    """An endpoint from its record and queue. Raises ValueError where the record cannot be read."""
    record, now_ms = seen.record, seen.now_ms
    try:
        scaling, spec = _settings(record["scaling"], record["spec"])
        failures = counted_failures(record)
        return EndpointView(
            name=name,
            revision=record["revision"],
            environment=record["resources"],
            minimum=scaling.workers_min,
            maximum=scaling.workers_max,
            idle_timeout_s=scaling.idle_timeout,
            queued=seen.queued,
            nested=min(seen.nested, seen.queued),
            waits_s=tuple(max(0, now_ms - at) / 1000 for at in sorted(seen.enqueued_ms)),
            running=len(seen.began_ms),
            elapsed_s=tuple(max(0, now_ms - at) / 1000 for at in seen.began_ms if at),
            service_s=service_s,
            cold_s=cold_s,
            scaler_type=scaling.scaler_type,
            scaler_value=scaling.scaler_value,
            buffer=scaling.buffer,
            concurrency=spec.resources.concurrency,
            needs=needs(spec.resources, spec.python),
            paused=record.get("paused") == "1",
            failures=failures,
            first_failure_at=_seconds(record.get("first_failed_at")) if failures else None,
            last_failure_at=_seconds(record.get("failed_at")) if failures else None,
            last_failure_reason=record.get("failure", "").partition("\n")[0][:_REASON],
            condition=_condition(record.get("condition", "")),
            withheld=_withheld(name, record.get("withheld", "")),
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


@lru_cache(maxsize=1024)
def _settings(scaling: str, spec: str) -> tuple[written.Scaling, written.Spec]:
    """Read anew only when they have changed."""
    return written.Scaling.model_validate_json(scaling), written.Spec.model_validate_json(spec)


def counted_failures(record: Mapping[str, str]) -> int:
    """Failed starts that hold further ones back.

    One that would fail again is tried again at once; from `HOPELESS` of them on they count like the rest, so
    that what has mended itself (a package index, a model hub) is found out, seldom.
    """
    failures, broken = _whole(record.get("failures") or 0), _whole(record.get("broken") or 0)
    return failures if broken >= HOPELESS else max(0, failures - broken)


def needs(resources: written.Resources, python: str = "") -> Needs:
    """What one worker takes of a host, from the spec's `resources` and its Python version."""
    gpu, cpu = resources.gpu, resources.cpu
    beside = Needs(
        labels=tuple(resources.labels),
        datacenters=tuple(resources.datacenters),
        python=python,
        requires=required(resources.model_dump()),
    )
    if gpu is not None:
        return replace(
            beside, gpus=gpu.count, gpu_models=tuple(gpu.products), gpu_others=gpu.others, cuda=gpu.cuda
        )
    if cpu is not None:
        return replace(beside, cpus=cpu.cores or 0.0, memory_bytes=(cpu.memory_gib or 0) << 30)
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
        jobs=_whole(row.jobs),
        lends=row.lends,
        reported=row.reported,
        gpu_uuids=row.gpus,
        cpus=_quantity(row.cpus),
        memory_bytes=_whole(row.memory_bytes),
    )


def host_view(
    host: str,
    fields: Mapping[str, str],
    expires_ms: float,
    leases: Mapping[str, GpuLease] | None = None,
    drain: str | None = None,
) -> HostView:
    """A host from its record, the leases of GPUs, and the word to drain it. Raises ValueError: one cannot be read."""
    if fields.get("frees") != "1":  # of an older version: leases end there with their workers
        leases = None
    try:
        beat_at = _whole(fields["beat"]) / 1000
        gpus = written.GPUS.validate_json(fields.get("gpus") or "[]")
        lacks = written.LACKS.validate_json(fields.get("lacks") or "{}")
        return HostView(
            id=host,
            beat_at=beat_at,
            lease_s=expires_ms / 1000 - beat_at,
            cpus=_quantity(fields["cpus"]) if fields.get("cpus") else None,
            memory_bytes=_whole(fields["memory_bytes"]) if fields.get("memory_bytes") else None,
            gpus=tuple(_gpu(gpu, leases or {}) for gpu in gpus),
            gpu_faults=tuple(written.FAULTS.validate_json(fields.get("gpu_faults") or "[]")),
            cuda=fields.get("cuda", ""),
            fallback_cpu=fields.get("fallback_cpu") == "1",
            draining=fields.get("draining") == "1",
            drained=None if drain is None else drain.partition(" ")[2],
            labels=frozenset(label for label in fields.get("labels", "").split(",") if label),
            pythons=tuple(python for python in fields.get("pythons", "").split(",") if python),
            lacks=tuple(lacks.items()),
            slots=_whole(fields["slots"]) if fields.get("slots") else None,
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


def _gpu(gpu: written.Gpu, leases: Mapping[str, GpuLease]) -> GpuView:
    lease = leases.get(gpu.uuid)
    return GpuView(
        **gpu.model_dump(),
        leased="" if lease is None else lease.worker,
        kept="" if lease is None else lease.why,
    )


def condition_json(condition: Condition | None) -> str:
    """What an endpoint's record keeps as its condition; empty: none."""
    return "" if condition is None else json.dumps(asdict(condition))


def _condition(text: str) -> Condition | None:
    """Where it cannot be read: one that is like no other, and so is written over."""
    try:
        return Condition(**written.WrittenCondition.model_validate_json(text).model_dump()) if text else None
    except ValueError:
        return _UNREADABLE


def withheld_json(withheld: Withheld) -> str:
    """What an endpoint's record keeps of a start held back."""
    return json.dumps({"code": withheld.code, "detail": withheld.detail, "due_at": withheld.due_at})


def _withheld(endpoint: str, text: str) -> Withheld | None:
    """None also where it cannot be read: the next one takes its place."""
    try:
        read = written.WrittenWithheld.model_validate_json(text) if text else None
    except ValueError:
        return None
    return None if read is None else Withheld(endpoint, **read.model_dump())


def _whole(value: str | int) -> int:
    """A count, or a size or time of this world. Raises ValueError."""
    number = int(value)
    if not 0 <= number <= _MOST:
        raise ValueError(f"{str(value)[:40]} is out of range")
    return number


def _quantity(value: str | float) -> float:
    """A number to reckon with. Raises ValueError: infinity and what is no number make no plan."""
    number = float(value)
    if not 0 <= number <= _MOST:
        raise ValueError(f"{str(value)[:40]} is no quantity")
    return number


def _seconds(ms: str | None) -> float | None:
    return _quantity(ms) / 1000 if ms else None
