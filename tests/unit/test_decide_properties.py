"""What every decision must satisfy, over random endpoints, workers and hosts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashq_autoscaler.decide import decide
from flashq_autoscaler.fleet import is_live, is_silent
from flashq_autoscaler.reconcile import SetCondition, is_news, reconcile
from flashq_autoscaler.views import (
    EndpointView,
    GpuView,
    HostView,
    Needs,
    Params,
    Snapshot,
    Unknown,
    WorkerView,
)
from tests.unit.scaling_world import GIB, NOW, simulate_apply

if TYPE_CHECKING:
    from random import Random

# A snapshot is many draws; there are many properties.
FEW = settings(max_examples=50)
NAMES = ("a", "b", "c")
ENVIRONMENTS = ("env", "old", "older")
ages = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 14.9, 20.0, 59.9, 60.0, 100.0, 1000.0])
estimates = st.one_of(st.none(), st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0, 1.5, 20.0, 600.0]))
needs = st.builds(
    Needs,
    cpus=st.sampled_from([0.0, 1.0, 2.0]),
    memory_bytes=st.sampled_from([0, GIB]),
    gpus=st.sampled_from([0, 0, 1, 2]),
    gpu_models=st.sampled_from([(), ("L4",), ("H200", "L4")]),
)


@st.composite
def endpoints(draw: st.DrawFn, name: str) -> EndpointView:
    maximum = draw(st.integers(0, 12))
    waits = sorted(draw(st.lists(ages, max_size=15)), reverse=True)
    running = draw(st.integers(0, 4))
    failures = draw(st.sampled_from([0, 0, 0, 1, 2, 9]))
    return EndpointView(
        name=name,
        revision="r2",
        environment="env",
        minimum=draw(st.integers(0, maximum)),
        maximum=maximum,
        idle_timeout_s=draw(st.sampled_from([0.0, 1.0, 60.0])),
        queued=len(waits) + (draw(st.sampled_from([0, 0, 1000])) if waits else 0),
        waits_s=tuple(waits),
        running=running,
        elapsed_s=tuple(draw(ages) for _ in range(running)),
        service_s=draw(estimates),
        cold_s=draw(estimates),
        scaler_type=draw(st.sampled_from([None, None, "QUEUE_DELAY", "REQUEST_COUNT"])),
        scaler_value=draw(st.sampled_from([1.0, 4.0])),
        buffer=draw(st.sampled_from([0, 0, 0, 1, 3])),
        concurrency=draw(st.sampled_from([1, 1, 3])),
        needs=draw(needs),
        paused=draw(st.sampled_from([False, False, False, True])),
        failures=failures,
        first_failure_at=NOW - 8 * 86400 if failures == 9 else NOW - 100 if failures else None,
        last_failure_at=NOW - draw(ages) if failures else None,
    )


@st.composite
def snapshots(draw: st.DrawFn, /, **overrides: Any) -> Snapshot:
    views = [draw(endpoints(name)) for name in NAMES[: draw(st.integers(1, 3))]]
    views = [replace(view, **overrides) for view in views]
    hosts = [
        HostView(
            id=f"h{i}",
            beat_at=NOW - draw(st.sampled_from([0.0, 0.0, 0.0, 60.0])),
            cpus=draw(st.sampled_from([None, 2.0, 8.0])),
            memory_bytes=draw(st.sampled_from([None, 4 * GIB])),
            gpus=tuple(
                GpuView(f"GPU-{i}-{k}", draw(st.sampled_from(["L4", "H200"])), 24 * GIB, draw(st.booleans()))
                for k in range(draw(st.integers(0, 3)))
            ),
            fallback_cpu=draw(st.booleans()),
            draining=draw(st.sampled_from([False, False, False, True])),
            drained=draw(st.sampled_from([None, None, None, None, "", "new driver"])),
            slots=draw(st.sampled_from([None, None, 3])),
        )
        for i in range(draw(st.integers(0, 3)))
    ]
    free = [gpu.uuid for host in hosts for gpu in host.gpus]
    workers = []
    for view in [*views, None]:
        cap = view.maximum if view is not None else 2
        for i in range(draw(st.integers(0, min(cap, 5)))):
            state = draw(
                st.sampled_from(["initializing", "idle", "idle", "running", "unhealthy", "throttled"])
            )
            held = 0 if view is None else min(len(free), draw(st.integers(0, view.needs.gpus)))
            workers.append(
                WorkerView(
                    id=f"{view.name if view else 'gone'}-w{i}",
                    endpoint=view.name if view else "gone",
                    host=draw(st.sampled_from(["h0", "h1", "h2"])),
                    state=state,  # type: ignore[arg-type]
                    revision="r1",
                    environment=draw(st.sampled_from(["env", "env", *ENVIRONMENTS])),
                    since=NOW - draw(ages),
                    beat_at=NOW - draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, 20.0])),
                    draining=draw(st.sampled_from([False, False, False, True])),
                    jobs=draw(st.integers(1, 3)) if state == "running" else 0,
                    gpu_uuids=tuple(free.pop() for _ in range(held)),
                    cpus=draw(st.sampled_from([0.0, 1.0])),
                )
            )
    return Snapshot(NOW, tuple(views), tuple(workers), tuple(hosts))


def endpoints_of(snapshot: Snapshot) -> tuple[EndpointView, ...]:
    assert not isinstance(snapshot.endpoints, Unknown)
    return snapshot.endpoints


def workers_of(snapshot: Snapshot) -> tuple[WorkerView, ...]:
    assert not isinstance(snapshot.workers, Unknown)
    return snapshot.workers


def live(snapshot: Snapshot, name: str) -> int:
    return sum(is_live(w) and not is_silent(w, NOW) and w.endpoint == name for w in workers_of(snapshot))


alphas = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@FEW
@given(snapshots(), alphas)
def test_live_workers_never_exceed_max(before: Snapshot, alpha: float) -> None:
    plan = decide(before, Params(alpha=alpha))

    started = Counter(start.endpoint for start in plan.starts)
    for endpoint in endpoints_of(before):
        maximum = endpoint.maximum
        if started[endpoint.name]:
            assert live(before, endpoint.name) + started[endpoint.name] <= maximum


@FEW
@given(snapshots(), alphas)
def test_of_busy_workers_only_those_outdated_or_on_drained_hosts_are_drained_and_none_is_stopped(
    before: Snapshot, alpha: float
) -> None:
    plan = decide(before, Params(alpha=alpha))

    by_id = {worker.id: worker for worker in workers_of(before)}
    assert not isinstance(before.hosts, Unknown)
    drained = {host.id for host in before.hosts if host.drained is not None}
    for drain in plan.drains:
        if drain.busy and by_id[drain.worker].host not in drained:
            assert by_id[drain.worker].environment != "env"
            assert drain.outdated
        elif not drain.busy:
            assert by_id[drain.worker].jobs == 0
            assert by_id[drain.worker].state != "running"
        assert not by_id[drain.worker].draining
    for stop in plan.stops:
        assert is_silent(by_id[stop.worker], NOW)


@FEW
@given(snapshots())
def test_no_gpu_has_two_workers(before: Snapshot) -> None:
    plan = decide(before)

    held = [uuid for worker in workers_of(before) for uuid in worker.gpu_uuids]
    granted = [uuid for start in plan.starts for uuid in start.gpu_uuids]
    assert len(set(held + granted)) == len(held + granted)
    assert not isinstance(before.hosts, Unknown)
    gpus = {gpu.uuid: gpu for host in before.hosts for gpu in host.gpus}
    assert not any(gpus[uuid].foreign for uuid in granted)


@FEW
@given(snapshots(), alphas)
def test_after_applying_a_plan_there_is_nothing_left_to_do(before: Snapshot, alpha: float) -> None:
    params = Params(alpha=alpha)
    plan = decide(before, params)
    actions = reconcile(plan, before)
    after = simulate_apply(before, actions)

    again = decide(after, params)

    assert (again.starts, again.drains, again.stops) == ((), (), ())
    # A drain may change what its endpoint lacks, and so its condition; a worker that was about to start has a name now.
    left = reconcile(again, after)
    assert all(isinstance(action, SetCondition) for action in left)
    assert plan.drains or not any(is_news(action) for action in left)
    assert reconcile(plan, after) == ()


@FEW
@given(snapshots(), st.integers(1, 20))
def test_more_queued_never_means_fewer_starts(before: Snapshot, more: int) -> None:
    first, *others = endpoints_of(before)
    assert isinstance(first.queued, int)
    room_in_list = 50 - len(first.waits_s) if len(first.waits_s) == first.queued else 0
    waits_s = first.waits_s + (0.0,) * min(more, room_in_list)
    busier = replace(before, endpoints=(replace(first, queued=first.queued + more, waits_s=waits_s), *others))

    starts = [decide(world).starts for world in (before, busier)]

    fewer, many = (sum(start.endpoint == first.name for start in some) for some in starts)
    assert fewer <= many


@FEW
@given(snapshots(queued=0, waits_s=(), running=0, minimum=0, buffer=0))
def test_with_nothing_queued_and_no_minimum_nothing_starts(before: Snapshot) -> None:
    assert decide(before).starts == ()


@FEW
@given(snapshots(queued=0, waits_s=(), running=0, buffer=0))
def test_with_nothing_queued_and_the_minimum_there_nothing_starts(before: Snapshot) -> None:
    plan = decide(before)

    for endpoint in endpoints_of(before):
        fit = [
            worker
            for worker in workers_of(before)
            if worker.endpoint == endpoint.name and is_live(worker) and not is_silent(worker, NOW)
            and not worker.draining and worker.environment == endpoint.environment
        ]  # fmt: skip
        if len(fit) >= endpoint.minimum:
            assert not any(start.endpoint == endpoint.name for start in plan.starts)


@FEW
@given(snapshots(), st.randoms(use_true_random=False))
def test_listing_order_changes_nothing(before: Snapshot, rng: Random) -> None:
    assert not isinstance(before.hosts, Unknown)
    parts: list[list[Any]] = [list(endpoints_of(before)), list(workers_of(before)), list(before.hosts)]
    for part in parts:
        rng.shuffle(part)
    shuffled = Snapshot(NOW, *(tuple(part) for part in parts))

    assert decide(shuffled) == decide(before)
    assert reconcile(decide(shuffled), shuffled) == reconcile(decide(before), before)


@FEW
@given(snapshots(), alphas)
def test_the_next_wake_up_is_in_the_future(before: Snapshot, alpha: float) -> None:
    plan = decide(before, Params(alpha=alpha))

    assert plan.wake_at is None or plan.wake_at > NOW
    assert all(withheld.due_at > NOW for withheld in plan.withheld)


@FEW
@given(snapshots(), st.integers(1, 7))
def test_an_unknown_part_never_acts(before: Snapshot, parts: int) -> None:
    unknown = Unknown("connection lost")
    blind = replace(
        before,
        endpoints=unknown if parts & 1 else before.endpoints,
        workers=unknown if parts & 2 else before.workers,
        hosts=unknown if parts & 4 else before.hosts,
    )

    plan = decide(blind)

    assert (plan.starts, plan.drains, plan.stops, plan.states) == ((), (), (), ())
    assert plan.unknown == (unknown,) * parts.bit_count()
    assert reconcile(plan, blind) == ()
    assert reconcile(decide(before), blind) == ()


@FEW
@given(snapshots())
def test_an_endpoint_with_an_unknown_queue_is_left_alone(before: Snapshot) -> None:
    first, *others = endpoints_of(before)
    blind = replace(before, endpoints=(replace(first, queued=Unknown("timeout")), *others))

    plan = decide(blind)

    assert not any(start.endpoint == first.name for start in plan.starts)
    assert not any(drain.endpoint == first.name for drain in plan.drains)
    assert not any(state.endpoint == first.name for state in plan.states)
    assert plan.undecided == {first.name}


@FEW
@given(snapshots())
def test_every_decision_has_a_reason(before: Snapshot) -> None:
    plan = decide(before)

    reasons = [start.reason for start in plan.starts] + [drain.reason for drain in plan.drains]
    assert all([*reasons, *(stop.reason for stop in plan.stops)])
    assert all(state.condition.detail for state in plan.states)
    assert all(withheld.detail for withheld in plan.withheld)


@FEW
@given(snapshots(needs=Needs(), failures=0))
def test_the_minimum_is_reached_where_nothing_limits(before: Snapshot) -> None:
    roomy = replace(before, hosts=(HostView("h0", NOW),))

    after = simulate_apply(roomy, reconcile(decide(roomy), roomy))

    for endpoint in endpoints_of(after):
        at_max = live(after, endpoint.name) >= endpoint.maximum
        # An outdated one that leaves stands in until it is gone, a moment later.
        serving = sum(
            worker.endpoint == endpoint.name and is_live(worker)
            and (not worker.draining or (worker.environment != endpoint.environment and not worker.jobs))
            for worker in workers_of(after)
            if not is_silent(worker, NOW)
        )  # fmt: skip
        assert at_max or serving >= endpoint.minimum - max(1, endpoint.maximum // 10)


@FEW
@given(snapshots(needs=Needs(), failures=0, paused=False, scaler_type=None))
def test_a_job_that_waited_a_whole_start_has_a_worker_or_max_is_reached(before: Snapshot) -> None:
    roomy = replace(before, hosts=(HostView("h0", NOW),))

    after = simulate_apply(roomy, reconcile(decide(roomy), roomy))

    for endpoint in endpoints_of(after):
        cold_s = 1.0 if endpoint.cold_s is None else endpoint.cold_s
        overdue = sum(wait >= max(cold_s, 0.001) for wait in endpoint.waits_s)
        slots = sum(
            endpoint.concurrency - min(worker.jobs, endpoint.concurrency)
            for worker in workers_of(after)
            if worker.endpoint == endpoint.name and is_live(worker) and not is_silent(worker, NOW)
            and not worker.draining and worker.environment == endpoint.environment
        )  # fmt: skip
        at_max = live(after, endpoint.name) >= endpoint.maximum
        assert at_max or slots >= overdue


@pytest.mark.parametrize("part", ["endpoints", "workers", "hosts"])
def test_a_lost_connection_does_not_look_like_an_empty_queue(part: str) -> None:
    idle = WorkerView("w1", "a", "h0", "idle", "r1", "env", since=NOW - 9999, beat_at=NOW - 9999)
    parts: dict[str, Any] = {"endpoints": (), "workers": (idle,), "hosts": ()}

    plan = decide(Snapshot(NOW, **(parts | {part: Unknown("connection lost")})))

    assert (plan.drains, plan.stops) == ((), ())
