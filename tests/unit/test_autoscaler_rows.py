"""What the autoscaler makes of the broker's rows, and of what workers reported before."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from flashq.model import spec as specs
from flashq.model.spec import EndpointSpec
from flashq.store.gpu_leases import GpuLease
from flashq.store.records import Observed
from flashq.store.workers import WorkerRow
from flashq_autoscaler import rows
from flashq_autoscaler.decide import decide
from flashq_autoscaler.estimates import Estimates
from flashq_autoscaler.fleet import is_silent
from flashq_autoscaler.views import Condition, EndpointView, Needs, Snapshot, Withheld

NOW_MS = 1_800_000_000_000
NOW = NOW_MS / 1000


def record(**parameters: Any) -> dict[str, str]:
    """An endpoint's record as REGISTER writes it."""
    spec = EndpointSpec(**{"name": "embed", "cpu": "any", **parameters})
    return {
        "revision": "r1",
        "environment": specs.environment_digest(spec),
        "resources": "digest",
        "spec": specs.canonical_json(specs.public(spec)),
        "scaling": specs.canonical_json(specs.scaling(spec)),
    }


def observed(fields: dict[str, str] | None = None, **changes: Any) -> Observed:
    empty = Observed(NOW_MS, record() if fields is None else fields, {}, 0, (), 0, (), ())
    return replace(empty, **changes)


def view(fields: dict[str, str] | None = None, **changes: Any) -> EndpointView:
    return rows.endpoint_view("embed", observed(fields, **changes), service_s=None, cold_s=None)


def worker_row(**fields: Any) -> WorkerRow:
    written = {
        "fq_state": "idle", "fq_since": NOW_MS - 2000, "fq_beat": NOW_MS - 1000, "fq_host": "h1",
        "fq_rev": "r1", "fq_env": "digest", "fq_jobs": 0, "fq_ordered": NOW_MS - 5000,
    }  # fmt: skip
    kept = {name: str(value) for name, value in (written | fields).items() if value is not None}
    return WorkerRow("embed-1", NOW_MS + 14_000, kept)


def scaling(number: str) -> str:
    """`scaling` of a record with this in the place of its numbers."""
    return re.sub(r"(\"\w+\"):\d+(\.\d+)?", rf"\1:{number}", record()["scaling"])


# -- endpoints -----------------------------------------------------------------------------------------


def test_endpoint_has_what_its_record_and_queue_say() -> None:
    seen = view(
        record(workers=(1, 4), idle_timeout=30, max_concurrency=2, cpu="cpu5c-4-8"),
        queued=3,
        enqueued_ms=(NOW_MS - 100, NOW_MS - 3000, NOW_MS + 50),
        began_ms=(NOW_MS - 2000, 0),
    )
    assert (seen.minimum, seen.maximum, seen.idle_timeout_s, seen.concurrency) == (1, 4, 30.0, 2)
    assert (seen.revision, seen.environment) == ("r1", "digest")
    assert (seen.queued, seen.waits_s) == (3, (3.0, 0.1, 0.0))
    assert (seen.running, seen.elapsed_s) == (2, (2.0,))
    assert replace(seen.needs, python="") == Needs(cpus=4.0, memory_bytes=8 << 30)
    assert (seen.scaler_type, seen.paused, seen.failures) == (None, False, 0)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"cpu": "any"}, Needs()),
        ({"cpu": None}, Needs(gpus=1)),
        (
            {"system_dependencies": ["ffmpeg"], "volume": "/mnt/m"},
            Needs(requires=("package ffmpeg", "folder /mnt/m")),
        ),
        (
            {"hosts": {"zone": "eu"}, "datacenter": ["B", "A"]},
            Needs(labels=("zone=eu",), datacenters=("A", "B")),
        ),
        ({"cpu": None, "gpu": "NVIDIA H200", "gpu_count": 2}, Needs(gpus=2, gpu_models=("NVIDIA H200",))),
        (
            {"cpu": None, "gpu": ["NVIDIA H200", "any"], "min_cuda_version": "12.4"},
            Needs(gpus=1, gpu_models=("NVIDIA H200",), gpu_others=True, cuda="12.4"),
        ),
    ],
)
def test_needs_follow_the_resources(parameters: dict[str, Any], expected: Needs) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert view(record(**parameters)).needs == replace(expected, python=python)


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({}, 0),
        ({"failures": "3"}, 3),
        ({"failures": "1", "broken": "1"}, 0),
        ({"failures": "3", "broken": "1"}, 2),
        ({"failures": "2", "broken": "2"}, 2),
        ({"failures": "5", "broken": "3"}, 5),
    ],
)
def test_start_that_would_fail_again_holds_others_back_only_from_the_second_on(
    fields: dict[str, str], counted: int
) -> None:
    seen = view({**record(), **fields, "failed_at": str(NOW_MS), "failure": "why\nat length"})
    assert seen.failures == counted
    assert seen.last_failure_reason == "why"


@pytest.mark.parametrize(
    "broken",
    [
        {"spec": "{"},
        {"spec": "[]"},
        {"scaling": "{}"},
        {"scaling": "null"},
        {"failures": "many"},
        *({"scaling": scaling(junk)} for junk in ("NaN", "Infinity", "-Infinity", "1e400", "[]", '"x"')),
        {"failures": "1", "failed_at": "inf"},
        {"failures": "1", "first_failed_at": "nan"},
    ],
)
def test_unreadable_record_is_an_error_never_a_zero(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        view({**record(), **broken})


def test_condition_and_withheld_read_as_they_were_written() -> None:
    condition = Condition("unhealthy", "BACKOFF", "3 failed starts", 2, retry_at=12.5)
    withheld = Withheld("embed", "QUEUE_SOON_EMPTY", "soon", 13.5)
    written = {"condition": rows.condition_json(condition), "withheld": rows.withheld_json(withheld)}
    seen = view({**record(), **written})
    assert (seen.condition, seen.withheld) == (condition, withheld)
    assert rows.condition_json(None) == ""


# -- workers -------------------------------------------------------------------------------------------


def test_worker_has_what_its_record_says() -> None:
    row = worker_row(
        fq_state="running", fq_jobs=2, fq_gpus="GPU-1,GPU-2", fq_cpus="2.0", fq_memory="7", fq_drain=1
    )
    seen = rows.worker_view(row, "embed", NOW, current="digest")
    assert (seen.id, seen.endpoint, seen.host, seen.state) == ("embed-1", "embed", "h1", "running")
    assert (seen.since, seen.beat_at, seen.lease_s) == (NOW - 2, NOW - 1, 15.0)
    assert (seen.jobs, seen.gpu_uuids, seen.cpus, seen.memory_bytes) == (2, ("GPU-1", "GPU-2"), 2.0, 7)
    assert seen.draining


@pytest.mark.parametrize("name", ["fq_since", "fq_beat", "fq_cpus", "fq_memory", "fq_jobs", "fq_ordered"])
@pytest.mark.parametrize("junk", ["x", "nan", "inf", "-inf", "1e400"])
def test_a_worker_whose_numbers_are_none_is_an_error(name: str, junk: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rows.worker_view(worker_row(**{name: junk}), "embed", NOW, current="digest")


def test_a_booked_worker_has_not_reported_until_its_process_is_known() -> None:
    booked = worker_row()
    assert not rows.worker_view(booked, "embed", NOW, current="digest").reported
    joined = worker_row(pid=4711)
    assert rows.worker_view(joined, "embed", NOW, current="digest").reported


def test_worker_silent_for_a_lease_is_reaps_to_judge_where_its_endpoint_exists() -> None:
    silent = replace(worker_row(fq_beat=NOW_MS - 60_000), expires_ms=NOW_MS - 45_000)
    assert not is_silent(rows.worker_view(silent, "embed", NOW, current="digest"), NOW)
    assert is_silent(rows.worker_view(silent, "embed", NOW, current=None), NOW)


def test_worker_started_by_hand_is_neither_outdated_nor_idle_for_long() -> None:
    row = worker_row(fq_ordered=None, fq_env=None, fq_since=NOW_MS - 3_600_000)
    seen = rows.worker_view(row, "embed", NOW, current="digest")
    assert (seen.environment, seen.since) == ("digest", NOW)
    plan = decide(Snapshot(NOW, (view(),), (seen,), ()))
    assert plan.drains == ()


def test_worker_in_a_state_unknown_here_is_never_touched() -> None:
    seen = rows.worker_view(worker_row(fq_state="dreaming"), "embed", NOW, current="digest")
    assert seen.state == "running"


def test_worker_whose_record_is_gone_still_counts() -> None:
    seen = rows.worker_view(WorkerRow("embed-1", NOW_MS + 1000, {}), "embed", NOW, current="digest")
    assert (seen.state, seen.environment) == ("initializing", "digest")


# -- hosts ---------------------------------------------------------------------------------------------


def host_fields(**changes: str) -> dict[str, str]:
    gpu = {"uuid": "GPU-1", "name": "NVIDIA L4", "memory_bytes": 1 << 34, "foreign": True}
    fields = {
        "beat": str(NOW_MS), "cpus": "2.5", "memory_bytes": "1024", "gpus": json.dumps([gpu]),
        "fallback_cpu": "1", "draining": "0", "slots": "",
    }  # fmt: skip
    return fields | changes


def test_host_has_what_its_record_says() -> None:
    seen = rows.host_view("h1", host_fields(), NOW_MS + 15_000)
    assert (seen.beat_at, seen.lease_s, seen.cpus, seen.memory_bytes) == (NOW, 15.0, 2.5, 1024)
    assert [(gpu.uuid, gpu.name, gpu.foreign) for gpu in seen.gpus] == [("GPU-1", "NVIDIA L4", True)]
    assert (seen.fallback_cpu, seen.draining, seen.slots) == (
        True,
        False,
        None,
    )
    assert rows.host_view("h1", host_fields(slots="3", draining="1"), NOW_MS).slots == 3


def test_host_tells_of_pythons_and_of_what_it_lacks() -> None:
    assert (
        rows.host_view("h1", host_fields(), NOW_MS).pythons,
        rows.host_view("h1", host_fields(), NOW_MS).lacks,
    ) == (
        (),
        (),
    )
    assert rows.host_view("h1", host_fields(labels="a,zone=eu"), NOW_MS).labels == {"a", "zone=eu"}
    said = host_fields(pythons="3.11,3.12", lacks='{"package ffmpeg": "not installed"}')
    seen = rows.host_view("h1", said, NOW_MS)
    assert (seen.pythons, seen.lacks) == (("3.11", "3.12"), (("package ffmpeg", "not installed"),))


def test_leases_of_gpus_show_with_their_hosts() -> None:
    lease = {"GPU-1": GpuLease("GPU-1", 3, NOW_MS, worker="w1"), "GPU-2": GpuLease("GPU-2", 1, NOW_MS)}
    (gpu,) = rows.host_view("h1", host_fields(), NOW_MS, lease).gpus
    assert gpu.leased == "", "one that gives no leases back"
    (gpu,) = rows.host_view("h1", host_fields(frees="1"), NOW_MS, lease).gpus
    assert (gpu.leased, gpu.kept) == ("w1", "")
    kept = {"GPU-1": GpuLease("GPU-1", 3, NOW_MS, why="FOREIGN_MEMORY")}
    (gpu,) = rows.host_view("h1", host_fields(frees="1"), NOW_MS, kept).gpus
    assert (gpu.leased, gpu.kept) == ("", "FOREIGN_MEMORY")


def test_host_tells_of_gpus_that_are_unfit_or_cannot_be_read() -> None:
    gpus = json.loads(host_fields()["gpus"])
    assert rows.host_view("h1", host_fields(), NOW_MS).gpus[0].fault == ""
    gpus[0]["fault"] = "XID 79"
    seen = rows.host_view("h1", host_fields(gpus=json.dumps(gpus), gpu_faults='["GPU 1 is lost"]'), NOW_MS)
    assert (seen.gpus[0].fault, seen.gpu_faults) == ("XID 79", ("GPU 1 is lost",))


@pytest.mark.parametrize(
    "broken",
    [
        {"beat": ""},
        {"gpus": "7"},
        {"gpus": "[{}]"},
        {"gpu_faults": "7"},
        {"lacks": "7"},
        *({"cpus": junk} for junk in ("two", "nan", "inf")),
    ],
)
def test_unreadable_host_is_an_error(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        rows.host_view("h1", host_fields(**broken), NOW_MS)


# -- estimates -----------------------------------------------------------------------------------------


def reporting(worker: str, **fields: str) -> WorkerRow:
    return WorkerRow(worker, 0, fields)


def test_estimates_are_medians_and_outlive_their_workers() -> None:
    estimates = Estimates()
    assert (estimates.service_s("embed"), estimates.cold_s("embed")) == (None, None)
    estimates.learn("embed", [reporting("a", fq_service_ms="100", fq_cold_ms="2000"), reporting("b")])
    estimates.learn(
        "embed", [reporting("b", fq_service_ms="300", fq_cold_ms=""), reporting("c", fq_cold_ms="x")]
    )
    estimates.learn("embed", [])
    assert (estimates.service_s("embed"), estimates.cold_s("embed")) == (0.2, 2.0)
    assert estimates.service_s("other") is None
    estimates.forget("embed")
    assert estimates.service_s("embed") is None


def test_estimates_follow_the_latest_workers() -> None:
    estimates = Estimates()
    for age in range(40):
        estimates.learn("embed", [reporting(f"old-{age}", fq_service_ms="9000")])
    for age in range(16):
        estimates.learn("embed", [reporting(f"new-{age}", fq_service_ms="100")])
    assert estimates.service_s("embed") == 0.1
