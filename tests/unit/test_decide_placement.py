"""Where workers go, who comes first, and why none can be placed."""

from __future__ import annotations

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.views import GpuView, HostView, Needs, Unknown
from tests.unit.scaling_world import GIB, GPU, NOW, endpoint, host, snapshot, worker

L4 = GpuView("GPU-l4", "NVIDIA L4", 24 * GIB)
FFMPEG = Needs(python="3.11", requires=("package ffmpeg", "folder /mnt/m"))
LACKS_FFMPEG = ("package ffmpeg", "not installed")
H200 = GpuView("GPU-h200", "NVIDIA H200", 141 * GIB)


@pytest.mark.parametrize(
    ("needs", "hosts", "code", "detail"),
    [
        (Needs(), [], "NO_HOST", "no host is connected"),
        (
            Needs(),
            [host("h1", beat_at=NOW - 60), host("h2", draining=True)],
            "NO_HOST",
            "of 2 hosts 1 are silent and 1 are draining",
        ),
        (Needs(), [host(slots=0)], "QUOTA", "host h1 runs 0 workers of at most 0"),
        (
            Needs(cpus=4.0),
            [host("h1", cpus=2.0), host("h2", cpus=3.5)],
            "NO_CPU",
            "needs 4 cores; host h1 has 2 of 2 left beside 0 workers; no better on 1 other host",
        ),
        (
            Needs(memory_bytes=8 * GIB),
            [host(memory_bytes=4 * GIB)],
            "HOST_MEMORY",
            "needs 8.0 GiB; host h1 has 4.0 of 4.0 GiB left beside 0 workers",
        ),
        (GPU, [host()], "NO_GPU", "needs 1 GPU; host h1 has none"),
        (
            Needs(gpus=2, gpu_models=("NVIDIA L4",)),
            [host("h0"), host(gpus=[L4, H200])],
            "NO_GPU",
            "needs 2 GPUs (NVIDIA L4); host h1: GPU-h200 is a NVIDIA H200 with 141 GiB, "
            "GPU-l4 is free; no better on 1 other host",
        ),
        (
            GPU,
            [host(gpus=[GpuView("GPU-1", "NVIDIA L4", 24 * GIB, foreign=True)])],
            "FOREIGN_MEMORY",
            "needs 1 GPU; host h1: GPU-1 has memory in use by another program",
        ),
        (
            GPU,
            [
                host(
                    gpus=[
                        GpuView(
                            "GPU-1", "NVIDIA L4", 24 * GIB, foreign=True, fault="XID 79: it is off the bus"
                        )
                    ]
                )
            ],
            "NO_GPU",
            "needs 1 GPU; host h1: GPU-1 is unfit: XID 79: it is off the bus",
        ),
        (
            GPU,
            [host(gpus=[GpuView("GPU-1", "NVIDIA L4", 24 * GIB, kept="FOREIGN_MEMORY 600 MiB in use")])],
            "FOREIGN_MEMORY",
            "needs 1 GPU; host h1: GPU-1 is kept from workers: FOREIGN_MEMORY 600 MiB in use",
        ),
        (
            GPU,
            [host(gpus=[GpuView("GPU-1", "NVIDIA L4", 24 * GIB, leased="w7")])],
            "NO_GPU",
            "needs 1 GPU; host h1: GPU-1 is held by worker w7, which has ended: not seen free yet",
        ),
        (
            GPU,
            [host(gpu_faults=("NVML does not start: Unknown Error",), fallback_cpu=True)],
            "NO_GPU",
            "needs 1 GPU; host h1: NVML does not start: Unknown Error",
        ),
        (
            Needs(labels=("a", "zone=eu"), datacenters=("X", "Y")),
            [host("h1", labels=frozenset(("a", "datacenter=Z")))],
            "NO_LABEL",
            "needs the label zone=eu and datacenter=X or datacenter=Y; host h1 has a, datacenter=Z",
        ),
        (
            Needs(python="3.12"),
            [host("h1", pythons=("3.11", "3.13")), host("h2", slots=0, pythons=("3.13",))],
            "NO_PYTHON",
            "needs Python 3.12; host h1 has 3.11, 3.13; no better on 1 other host",
        ),
        (
            FFMPEG,
            [
                host(
                    "h1",
                    lacks=(("folder /mnt/m", "No such file or directory"), LACKS_FFMPEG, ("package x", "")),
                )
            ],
            "LACKING",
            "host h1 lacks package ffmpeg (not installed); folder /mnt/m (No such file or directory)",
        ),
        (
            FFMPEG,
            [host("h1", pythons=("3.13",)), host("h2", slots=0, lacks=(LACKS_FFMPEG,))],
            "LACKING",
            "host h2 lacks package ffmpeg (not installed); no better on 1 other host",
        ),
    ],
)
def test_without_a_place_the_endpoint_is_throttled(
    needs: Needs, hosts: list[HostView], code: str, detail: str
) -> None:
    plan = decide(snapshot(endpoint(queued=2, needs=needs), hosts=hosts))

    assert plan.starts == ()
    (state,) = plan.states
    assert (state.condition.state, state.condition.code, state.condition.workers) == ("throttled", code, 2)
    assert state.condition.detail == detail


def test_what_lacks_nothing_is_chosen_and_told_what_is_required() -> None:
    hosts = [host("h1", lacks=(LACKS_FFMPEG,)), host("h2", pythons=("3.12",)), host("h3", pythons=("3.11",))]
    (start,) = decide(snapshot(endpoint(queued=1, needs=FFMPEG), hosts=hosts)).starts
    assert (start.host, start.requires) == ("h3", ("package ffmpeg", "folder /mnt/m"))


def test_workers_go_where_the_labels_are() -> None:
    here = host("h2", labels=frozenset(("zone=eu", "datacenter=Y", "other")))
    hosts = [host("h1", labels=frozenset(("zone=eu",))), here]
    needs = Needs(labels=("zone=eu",), datacenters=("X", "Y"))
    assert [
        start.host for start in decide(snapshot(endpoint(queued=2, needs=needs), hosts=hosts)).starts
    ] == [
        "h2",
        "h2",
    ]


def test_a_host_that_does_not_say_which_pythons_it_has_may_be_tried() -> None:
    (start,) = decide(snapshot(endpoint(queued=1, needs=Needs(python="3.12")), hosts=[host()])).starts
    assert start.host == "h1"


def test_a_lease_of_a_worker_on_record_is_that_workers() -> None:
    gpu = GpuView("GPU-1", "NVIDIA L4", 24 * GIB, leased="w9")
    busy = worker("w9", "running", endpoint="other", gpu_uuids=("GPU-1",))
    world = snapshot(
        [endpoint(queued=1, needs=GPU), endpoint("other", running=1)], [busy], [host(gpus=[gpu])]
    )

    (state,) = decide(world).states

    assert state.condition.detail == "needs 1 GPU; host h1: GPU-1 is held by worker w9 of other"


def test_who_holds_the_gpu_is_said() -> None:
    busy = worker("w9", "running", endpoint="other", gpu_uuids=("GPU-1",))
    world = snapshot(
        [endpoint(queued=1, needs=GPU), endpoint("other", running=1)], [busy], [host(gpus=["GPU-1"])]
    )

    (state,) = decide(world).states

    assert state.condition.detail == "needs 1 GPU; host h1: GPU-1 is held by worker w9 of other"


@pytest.mark.parametrize("fields", [{"beat_at": NOW - 60}, {"state": "unhealthy"}, {"draining": True}])
def test_a_gpu_is_held_until_its_worker_is_off_the_record(fields: dict[str, object]) -> None:
    holder = worker("w1", gpu_uuids=("GPU-1",), **fields)  # type: ignore[arg-type]

    plan = decide(snapshot(endpoint(queued=1, needs=GPU), [holder], [host(gpus=["GPU-1"])]))

    assert plan.starts == ()
    assert [state.condition.code for state in plan.states] == ["NO_GPU"]


def test_a_lost_worker_frees_cores_and_slots() -> None:
    gone = worker("w1", "unhealthy", cpus=4.0)

    plan = decide(snapshot(endpoint(queued=1, needs=Needs(cpus=4.0)), [gone], [host(cpus=4.0, slots=1)]))

    assert len(plan.starts) == 1


def test_gpus_are_bound_by_uuid_and_only_once() -> None:
    needs = Needs(gpus=2, cpus=1.0, memory_bytes=GIB)

    plan = decide(snapshot(endpoint(queued=3, needs=needs), hosts=[host(gpus=["GPU-1", "GPU-2", "GPU-3"])]))

    (start,) = plan.starts
    assert (start.gpu_uuids, start.cpus, start.memory_bytes) == (("GPU-1", "GPU-2"), 1.0, GIB)
    assert [state.condition.workers for state in plan.states] == [2]


def test_a_host_without_any_gpu_may_fall_back_to_the_cpu() -> None:
    world = snapshot(endpoint(queued=1, needs=GPU), hosts=[host(fallback_cpu=True)])

    (start,) = decide(world).starts

    assert start.gpu_uuids == ()


def test_a_host_with_busy_gpus_does_not_fall_back() -> None:
    foreign = GpuView("GPU-1", "NVIDIA L4", 24 * GIB, foreign=True)

    plan = decide(snapshot(endpoint(queued=1, needs=GPU), hosts=[host(gpus=[foreign], fallback_cpu=True)]))

    assert plan.starts == ()


@pytest.mark.parametrize(
    ("needs", "hosts", "chosen"),
    [
        # A GPU before the fallback.
        (GPU, [host("h1", fallback_cpu=True), host("h2", gpus=["GPU-1"])], "h2"),
        # The model named first.
        (
            Needs(gpus=1, gpu_models=("NVIDIA H200", "nvidia l4")),
            [host("h1", gpus=[L4]), host("h2", gpus=[H200])],
            "h2",
        ),
        # The host with the fewest GPUs left, so that large needs still find a place.
        (GPU, [host("h1", gpus=["GPU-1", "GPU-2"]), host("h2", gpus=["GPU-3"])], "h2"),
        # CPU work stays off GPU hosts, and spreads.
        (Needs(cpus=1.0), [host("h1", gpus=["GPU-1"]), host("h2", cpus=2.0)], "h2"),
        (Needs(cpus=1.0), [host("h1", cpus=2.0), host("h2", cpus=8.0)], "h2"),
        (Needs(cpus=1.0), [host("h2"), host("h1")], "h1"),
    ],
)
def test_which_host_is_preferred(needs: Needs, hosts: list[HostView], chosen: str) -> None:
    (start,) = decide(snapshot(endpoint(queued=1, needs=needs), hosts=hosts)).starts

    assert start.host == chosen


def test_a_host_that_has_the_environment_is_preferred() -> None:
    there = worker("w1", "running", host="h2")

    (start,) = decide(
        snapshot(endpoint(queued=1, running=1), [there], [host("h1", cpus=64.0), host("h2", cpus=2.0)])
    ).starts

    assert start.host == "h2"


def test_workers_of_one_plan_spread_and_fill() -> None:
    hosts = [host("h1", cpus=2.0), host("h2", cpus=3.0)]

    plan = decide(snapshot(endpoint(workers=(0, 9), queued=9, needs=Needs(cpus=1.0)), hosts=hosts))

    assert sorted(start.host for start in plan.starts) == ["h1", "h1", "h2", "h2", "h2"]
    assert [state.condition.code for state in plan.states] == ["NO_CPU"]


def test_gpus_go_to_minimums_first_then_to_the_fewest_workers_then_to_the_oldest_wait() -> None:
    gpus = [f"GPU-{i}" for i in range(6)]
    endpoints = [
        endpoint("a", (0, 9), queued=9, waits_s=(9.0,) * 9, needs=GPU),
        endpoint("b", (0, 9), queued=1, waits_s=(1.0,), needs=GPU),
        endpoint("c", (0, 9), queued=2, waits_s=(20.0, 20.0), needs=GPU),
        endpoint("d", (2, 9), needs=GPU),
    ]

    plan = decide(snapshot(endpoints, hosts=[host(gpus=gpus)]))

    assert [start.endpoint for start in plan.starts] == ["d", "d", "c", "a", "b", "c"]
    # What `b` wants it has; everybody else is told.
    assert [state.endpoint for state in plan.states] == ["a"]


A100 = [GpuView(f"GPU-a{n}", "NVIDIA A100-SXM4-80GB", 80 * GIB) for n in range(2)]
H100 = GpuView("GPU-h", "NVIDIA H100 80GB HBM3", 80 * GIB)
SLICES = [GpuView(f"MIG-{n}", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", 10 * GIB) for n in range(2)]


@pytest.mark.parametrize(
    ("needs", "gpus", "chosen"),
    [
        (Needs(gpus=1, gpu_models=(H100.name, A100[0].name)), [*A100, H100], ("GPU-h",)),
        (Needs(gpus=1, gpu_models=(A100[0].name, H100.name)), [*A100, H100], ("GPU-a0",)),
        (Needs(gpus=1, gpu_models=(H100.name,), gpu_others=True), [L4, H100], ("GPU-h",)),
        (Needs(gpus=1, gpu_models=(H100.name,), gpu_others=True), [L4], ("GPU-l4",)),
        # Several are of one model, where there are enough of one.
        (Needs(gpus=2, gpu_models=(H100.name, A100[0].name)), [*A100, H100], ("GPU-a0", "GPU-a1")),
        (Needs(gpus=2), [L4, *A100], ("GPU-a0", "GPU-a1")),
        (Needs(gpus=2), [L4, H100], ("GPU-l4", "GPU-h")),
        # A process can use one MIG slice only.
        (Needs(gpus=1), SLICES, ("MIG-0",)),
        (Needs(gpus=2), [*SLICES, L4, H200], ("GPU-l4", "GPU-h200")),
    ],
)
def test_which_gpus_a_worker_gets(needs: Needs, gpus: list[GpuView], chosen: tuple[str, ...]) -> None:
    (start,) = decide(snapshot(endpoint(queued=1, needs=needs), hosts=[host(gpus=gpus)])).starts

    assert start.gpu_uuids == chosen


def test_slices_do_not_stand_for_several_gpus() -> None:
    world = snapshot(endpoint(queued=1, needs=Needs(gpus=2)), hosts=[host(gpus=SLICES)])

    (state,) = decide(world).states

    assert state.condition.code == "NO_GPU"
    assert "MIG-0 is a MIG slice, of which a worker can use one only" in state.condition.detail


@pytest.mark.parametrize(
    ("cuda", "why"),
    [
        ("12.8", None),
        ("13.0", None),
        ("12.4", "needs 1 GPU with CUDA 12.8; the driver of host h1 runs up to 12.4"),
        ("", "needs 1 GPU with CUDA 12.8; the driver of host h1 does not say what it runs"),
    ],
)
def test_cuda_of_the_host_is_at_least_what_is_wanted(cuda: str, why: str | None) -> None:
    needs = Needs(gpus=1, cuda="12.8")

    plan = decide(snapshot(endpoint(queued=1, needs=needs), hosts=[host(gpus=["GPU-1"], cuda=cuda)]))

    assert [start.gpu_uuids for start in plan.starts] == ([("GPU-1",)] if why is None else [])
    assert [(s.condition.code, s.condition.detail) for s in plan.states] == (
        [] if why is None else [("NO_GPU", why)]
    )


def test_hosts_unknown_is_not_no_host() -> None:
    plan = decide(snapshot(endpoint(queued=1), hosts=Unknown("timeout")))

    assert plan.states == ()
    assert plan.unknown == (Unknown("timeout"),)


# -- hosts that may be gone ------------------------------------------------------------------------


def test_host_whose_heartbeat_is_overdue_is_taken_last() -> None:
    late, fresh = host("h1", cpus=64.0, beat_at=NOW - 8), host("h2", cpus=2.0)

    plan = decide(snapshot(endpoint(queued=1), hosts=[late, fresh]))
    assert [start.host for start in plan.starts] == ["h2"]

    plan = decide(snapshot(endpoint(queued=1), hosts=[late]))
    assert [start.host for start in plan.starts] == ["h1"]


def test_overdue_heartbeat_outweighs_the_environment_in_use_there() -> None:
    late, fresh = host("h1", beat_at=NOW - 8), host("h2")
    busy = worker("w1", "running", host="h1")

    plan = decide(snapshot(endpoint(queued=1, waits_s=(60.0,)), workers=[busy], hosts=[late, fresh]))
    assert [start.host for start in plan.starts] == ["h2"]
