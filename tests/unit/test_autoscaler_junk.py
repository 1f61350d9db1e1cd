"""What anybody may write into the broker's records: refused as unreadable, or something that a plan can be made of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashq.model import spec as specs
from flashq.model.spec import EndpointSpec
from flashq.store.gpu_leases import GpuLease
from flashq.store.records import Observed
from flashq.store.workers import WorkerRow
from flashq_autoscaler import rows
from flashq_autoscaler.decide import decide
from flashq_autoscaler.estimates import Estimates
from flashq_autoscaler.reconcile import reconcile
from flashq_autoscaler.views import Condition, Snapshot, Withheld

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW_MS = 1_800_000_000_000
NOW = NOW_MS / 1000
DEEP = "[" * 5_000 + "]" * 5_000
NUMBERS = ("-1", "0", "0.0", "2.5", "1e308", "1e400", "NaN", "Infinity", "-Infinity", "9" * 400, "9" * 5000)
JSON = (
    *NUMBERS,
    "null",
    "true",
    '""',
    '"x"',
    '"\\u0000"',
    "[]",
    "{}",
    "[[]]",
    '[{"a":1}]',
    '{"a":[1]}',
    "[1,2]",
)
TEXT = (
    *JSON,
    "",
    "x",
    "inf",
    "nan",
    "{",
    "\0",
    "é" * 5000,
    ",,,",
    "0x10",
    "1_000",
    DEEP,
    '{"a":' + DEEP + "}",
)


def endpoint() -> dict[str, str]:
    """A record with something in every field that a decision reads."""
    spec = EndpointSpec(
        name="e", gpu=["NVIDIA L4", "any"], gpu_count=1, min_cuda_version="12.4", workers=(1, 4), max_concurrency=2,
        system_dependencies=["ffmpeg"], volume="/mnt/m", hosts={"zone": "eu"}, datacenter=["B"],
        scaler_type="REQUEST_COUNT",
    )  # fmt: skip
    return {
        "revision": "r1", "resources": "digest", "spec": specs.canonical_json(specs.public(spec)),
        "scaling": specs.canonical_json(specs.scaling(spec)), "failures": "3", "broken": "2", "failed_at": str(NOW_MS),
        "first_failed_at": str(NOW_MS), "failure": "why", "paused": "0",
        "condition": rows.condition_json(Condition("unhealthy", "BACKOFF", "why", 2, retry_at=12.5)),
        "withheld": rows.withheld_json(Withheld("e", "QUEUE_SOON_EMPTY", "soon", NOW + 1)),
    }  # fmt: skip


def cpu_endpoint() -> dict[str, str]:
    spec = EndpointSpec(name="e", cpu="cpu5c-4-8", workers=(1, 4), scaler_type="QUEUE_DELAY")
    return {
        **endpoint(), "spec": specs.canonical_json(specs.public(spec)), "failures": "0", "broken": "0",
        "scaling": specs.canonical_json(specs.scaling(spec)),
    }  # fmt: skip


def worker() -> dict[str, str]:
    return {
        "fq_ep": "e", "fq_state": "idle", "fq_since": str(NOW_MS - 2000), "fq_beat": str(NOW_MS - 1000), "fq_host": "h",
        "fq_rev": "r1", "fq_env": "digest", "fq_jobs": "1", "fq_ordered": str(NOW_MS), "fq_gpus": "GPU-1",
        "fq_cpus": "1", "fq_memory": "1024", "fq_drain": "0", "fq_service_ms": "10", "fq_cold_ms": "20", "pid": "7",
    }  # fmt: skip


def host() -> dict[str, str]:
    gpu = {"uuid": "GPU-2", "name": "NVIDIA L4", "memory_bytes": 1 << 34, "foreign": False, "fault": ""}
    return {
        "beat": str(NOW_MS), "cpus": "8", "memory_bytes": str(1 << 40), "gpus": json.dumps([gpu]), "gpu_faults": "[]",
        "cuda": "12.8", "fallback_cpu": "1", "draining": "0", "labels": "zone=eu,datacenter=B", "pythons": "3.11,3.12",
        "lacks": '{"package ffmpeg": "none"}', "slots": "9", "frees": "1",
    }  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value inside a JSON value, itself first."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def with_junk(written: str, path: tuple[Any, ...], junk: str) -> str:
    """A JSON text with other JSON at one place."""
    if not path:
        return junk
    value = json.loads(written)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "@junk@"
    return json.dumps(value).replace('"@junk@"', junk)


def spoilt(record: dict[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """The record with junk in one or two fields: in the place of it, or inside where it is JSON."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> dict[str, str]:
        made = dict(record)
        for name in draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=2, unique=True)):
            if made[name].startswith(("{", "[")) and draw(st.booleans()):
                path = draw(st.sampled_from(list(places(json.loads(made[name])))))
                made[name] = with_junk(made[name], path, draw(st.sampled_from(JSON)))
            elif draw(st.integers(0, 9)) == 0:
                del made[name]
            else:
                made[name] = draw(st.sampled_from(TEXT) | st.text(max_size=9))
        return made

    return draw_one()


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])  # of a machine that is busy
@given(
    st.one_of(spoilt(endpoint()), spoilt(cpu_endpoint()), st.just(endpoint())),
    spoilt(worker()) | st.just(worker()),
    spoilt(host()) | st.just(host()),
    st.sampled_from([0, 1, 100_000]),
)
def test_what_is_written_is_refused_or_a_plan_can_be_made_of_it(
    record: dict[str, str], of_worker: dict[str, str], of_host: dict[str, str], queued: int
) -> None:
    row = WorkerRow("e-1", NOW_MS + 14_000, of_worker)
    seen = Observed(NOW_MS, record, {}, queued, (NOW_MS - 60_000,), 0, (NOW_MS,), (row,))
    estimates = Estimates()
    estimates.learn("e", seen.workers)
    lease = {"GPU-2": GpuLease("GPU-2", 1, NOW_MS)}
    try:
        view = rows.endpoint_view("e", seen, service_s=estimates.service_s("e"), cold_s=estimates.cold_s("e"))
        workers = (rows.worker_view(row, "e", NOW, current=view.environment),)
        hosts = (rows.host_view("h", of_host, NOW_MS + 15_000.0, lease),)
    except ValueError:
        return
    snapshot = Snapshot(NOW, (view,), workers, hosts)
    plan = decide(snapshot)
    assert len(plan.starts) <= view.maximum
    reconcile(plan, snapshot)


@pytest.mark.parametrize("junk", [text for text in TEXT if text])
def test_a_condition_that_cannot_be_read_is_written_over(junk: str) -> None:
    record = {**cpu_endpoint(), "condition": junk, "withheld": junk}
    view = rows.endpoint_view(
        "e", Observed(NOW_MS, record, {}, 0, (), 0, (), ()), service_s=None, cold_s=None
    )
    assert view.withheld is None
    snapshot = Snapshot(NOW, (replace(view, minimum=0),), (), ())
    (action,) = reconcile(decide(snapshot), snapshot)
    assert type(action).__name__ == "SetCondition"
    assert action == type(action)("e", None)  # type: ignore[call-arg,arg-type]
