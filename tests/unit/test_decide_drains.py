"""Which idle workers go, and how outdated ones are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.views import Needs, WorkerView
from tests.unit.scaling_world import GPU, NOW, endpoint, host, snapshot, worker

OLD = "old-env"


def old(name: str, state: str = "idle", **fields: Any) -> WorkerView:
    return worker(name, state, **({"environment": OLD, "revision": "r0"} | fields))


def drained(*args: Any, **kwargs: Any) -> list[str]:
    return [drain.worker for drain in decide(snapshot(*args, **kwargs)).drains]


def test_idle_workers_that_queued_jobs_are_about_to_take_stay() -> None:
    staff = [worker("w1", age_s=99.0), worker("w2", age_s=98.0), worker("w3", age_s=97.0)]

    assert drained(endpoint(queued=2), staff) == ["w1"]


def test_a_lowered_maximum_sends_the_longest_idle_home_at_once() -> None:
    staff = [worker("w1", age_s=3.0), worker("w2", age_s=2.0), worker("w3", "running")]

    plan = decide(snapshot(endpoint(workers=(0, 2), running=1), staff))

    assert [(drain.worker, drain.reason) for drain in plan.drains] == [("w1", "3 workers, at most 2 wanted")]


def test_above_maximum_the_outdated_go_first() -> None:
    staff = [worker("w1", age_s=9.0), old("w2", age_s=1.0)]

    assert drained(endpoint(workers=(0, 1)), staff) == ["w2"]


def test_only_ready_workers_stand_for_the_minimum() -> None:
    staff = [worker("w1", age_s=99.0), worker("w2", "initializing")]

    assert drained(endpoint(workers=(1, 3)), staff) == []


@pytest.mark.parametrize(("age_s", "expected"), [(4.0, []), (5.0, ["w1"])])
def test_idle_workers_of_an_endpoint_that_is_gone_end_after_a_grace(
    age_s: float, expected: list[str]
) -> None:
    busy = worker("w2", "running", endpoint="gone", age_s=99.0)

    plan = decide(snapshot([], [worker("w1", endpoint="gone", age_s=age_s), busy]))

    assert [drain.worker for drain in plan.drains] == expected
    assert plan.wake_at == (None if expected else NOW + 1.0)


def test_the_first_grace_to_end_is_the_next_wake_up() -> None:
    orphans = [worker(f"w{age}", endpoint="gone", age_s=float(age)) for age in (1, 3, 2)]

    assert decide(snapshot([], orphans)).wake_at == NOW + 2.0


# -- drained hosts ---------------------------------------------------------------------------------------


def test_the_workers_of_a_drained_host_finish_what_they_have_and_others_start_elsewhere() -> None:
    hosts = [host("h1", drained="new driver"), host("h2")]
    staff = [worker("w1", host="h1"), worker("w2", "running", host="h1"), worker("w3", host="h2")]
    view = endpoint(workers=(3, 4), running=1)

    plan = decide(snapshot(view, staff, hosts))

    assert [(drain.worker, drain.busy, drain.reason) for drain in plan.drains] == [
        ("w1", False, "host h1 is drained: new driver"),
        ("w2", True, "host h1 is drained: new driver"),
    ]
    # one more fits beside them below the maximum of 4, the other comes once they have ended
    assert [start.host for start in plan.starts] == ["h2"]


def test_nothing_is_started_on_a_drained_host_and_its_endpoint_is_told_so() -> None:
    plan = decide(snapshot(endpoint(queued=1), [], [host("h1", drained="")]))

    assert plan.starts == ()
    (state,) = plan.states
    assert (state.condition.code, state.condition.detail) == (
        "NO_HOST",
        "drained: h1 (`flashq hosts resume HOST` uses one again)",
    )


# -- rollout ---------------------------------------------------------------------------------------------


def test_a_code_only_change_replaces_nothing() -> None:
    plan = decide(snapshot(endpoint(workers=(1, 3), revision="r2"), [worker(revision="r1")]))

    assert (plan.starts, plan.drains) == ((), ())


def test_below_maximum_the_new_worker_comes_first() -> None:
    updated = endpoint(workers=(1, 2))

    first = decide(snapshot(updated, [old("w1")]))
    then = decide(snapshot(updated, [old("w1"), worker("w2", age_s=0.0)]))

    assert (len(first.starts), first.drains) == (1, ())
    assert (then.starts, [drain.worker for drain in then.drains]) == ((), ["w1"])
    assert then.drains[0].outdated
    assert then.drains[0].reason == "outdated: revision r0 → r1, after its replacement, 1 at a time"


def test_at_maximum_the_old_one_makes_way() -> None:
    plan = decide(snapshot(endpoint(workers=(1, 1)), [old("w1")]))

    assert plan.starts == ()
    assert [drain.reason for drain in plan.drains] == ["outdated: revision r0 → r1, in place, 1 at a time"]


def test_on_a_full_gpu_host_the_old_one_makes_way_though_maximum_leaves_room() -> None:
    staff = [old("w1", gpu_uuids=("GPU-1",))]

    plan = decide(snapshot(endpoint(workers=(1, 2), needs=GPU), staff, [host(gpus=["GPU-1"])]))

    assert [drain.worker for drain in plan.drains] == ["w1"]
    assert plan.states == ()


@pytest.mark.parametrize("needs", [Needs(cpus=99.0), Needs(gpus=1)])
def test_where_no_host_could_take_the_new_one_the_old_one_stays(needs: Needs) -> None:
    plan = decide(snapshot(endpoint(workers=(1, 2), needs=needs), [old("w1")], [host(cpus=2.0)]))

    assert (plan.starts, plan.drains) == ((), ())
    assert len(plan.states) == 1


@pytest.mark.parametrize(
    ("held", "needs", "limits"),
    [
        ({"cpus": 2.0}, Needs(cpus=2.0), {"cpus": 2.0}),
        ({"memory_bytes": 5}, Needs(memory_bytes=5), {"memory_bytes": 5}),
        ({}, Needs(), {"slots": 1}),
    ],
)
def test_what_the_old_one_holds_is_what_the_new_one_lacks(
    held: dict[str, Any], needs: Needs, limits: dict[str, Any]
) -> None:
    assert drained(endpoint(workers=(1, 2), needs=needs), [old("w1", **held)], [host(**limits)]) == ["w1"]


@pytest.mark.parametrize(("maximum", "batch"), [(5, 1), (10, 1), (20, 2), (39, 3)])
def test_a_tenth_of_maximum_is_replaced_at_a_time(maximum: int, batch: int) -> None:
    staff = [old(f"w{i:02}", age_s=100.0 - i) for i in range(maximum)]

    assert drained(endpoint(workers=(maximum, maximum)), staff) == [f"w{i:02}" for i in range(batch)]


@pytest.mark.parametrize("under_way", [old("w0", draining=True), worker("w0", "initializing")])
def test_the_next_batch_waits_for_the_last(under_way: WorkerView) -> None:
    assert drained(endpoint(workers=(3, 3)), [under_way, old("w1"), old("w2")]) == []


def test_a_busy_outdated_worker_finishes_what_it_has_and_takes_no_more() -> None:
    staff = [old("w1", "running", age_s=9.0), old("w2", "outdated", age_s=99.0, jobs=1)]

    plan = decide(snapshot(endpoint(workers=(2, 2), queued=5, running=2), staff))

    assert [(drain.worker, drain.busy) for drain in plan.drains] == [("w2", True)]


def test_idle_outdated_workers_go_before_busy_ones_and_may_refuse() -> None:
    staff = [old("w1", "running", age_s=99.0), old("w2", age_s=1.0)]

    plan = decide(snapshot(endpoint(workers=(2, 2), running=1), staff))

    assert [(drain.worker, drain.busy) for drain in plan.drains] == [("w2", False)]


def test_busy_outdated_workers_go_a_batch_at_a_time() -> None:
    staff = [old(f"w{i:02}", "running", age_s=100.0 - i) for i in range(20)]
    full = endpoint(workers=(0, 20), queued=99, running=20)

    first = drained(full, staff)
    staff[:2] = [old(worker.id, "running", draining=True) for worker in staff[:2]]

    assert first == ["w00", "w01"]
    assert drained(full, staff) == []


def test_an_outdated_worker_that_is_still_starting_goes_too() -> None:
    assert drained(endpoint(workers=(0, 1), queued=1), [old("w1", "initializing")]) == ["w1"]


def test_outdated_workers_beyond_the_minimum_go_without_a_replacement() -> None:
    plan = decide(snapshot(endpoint(workers=(0, 3)), [old("w1")]))

    assert plan.starts == ()
    assert [drain.worker for drain in plan.drains] == ["w1"]


def test_ready_workers_never_fall_below_the_minimum_while_there_is_room() -> None:
    updated = endpoint(workers=(2, 30))
    staff = [old("w1"), old("w2"), worker("w3"), worker("w4", "initializing")]

    assert drained(updated, staff[:2]) == []
    assert drained(updated, staff[:3]) == ["w1"]
    assert drained(updated, staff) == ["w1"]


def test_two_failed_starts_pause_the_rollout_and_the_old_revision_serves_on() -> None:
    fields: dict[str, Any] = {"failures": 2, "first_failure_at": NOW - 9, "last_failure_at": NOW - 1}
    staff = [old("w1", age_s=1.0), old("w2", age_s=99.0)]

    plan = decide(snapshot(endpoint(workers=(1, 2), **fields), staff))

    assert plan.starts == ()
    # Beyond the minimum even these go when they have been idle for long.
    assert [drain.worker for drain in plan.drains] == ["w2"]


def test_above_maximum_busy_ones_take_no_more_where_no_idle_one_is_left() -> None:
    staff = [worker("w1", "running", age_s=3.0), worker("w2", "running", age_s=2.0), worker("w3", "running")]

    plan = decide(snapshot(endpoint(workers=(0, 1), queued=9, running=3), staff))

    assert [(drain.worker, drain.busy) for drain in plan.drains] == [("w2", True), ("w3", True)]


def test_whose_jobs_wait_for_what_they_called_is_not_above_the_maximum() -> None:
    staff = [
        worker("w1", "running", lends=True),
        worker("w2", "running", lends=True),
        worker("w3", "running"),
    ]

    assert drained(endpoint(workers=(0, 1), running=3), staff) == []
