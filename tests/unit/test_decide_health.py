"""Failed starts: when the next is tried, and that they cost nobody else anything."""

from __future__ import annotations

from typing import Any

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.health import retry_delay_s
from flashq_autoscaler.views import EndpointView, Params
from tests.unit.scaling_world import GPU, NOW, endpoint, host, snapshot, worker

DAY_S = 86400.0


def failing(failures: int = 1, ago_s: float = 1.0, name: str = "embed", **fields: Any) -> EndpointView:
    defaults: dict[str, Any] = {
        "queued": 2, "failures": failures, "last_failure_at": NOW - ago_s, "first_failure_at": NOW - ago_s,
        "last_failure_reason": "OSError: disk full",
    }  # fmt: skip
    return endpoint(name, **(defaults | fields))


@pytest.mark.parametrize(
    ("failures", "delay_s"),
    [(1, 10.0), (2, 20.0), (3, 40.0), (11, 10_240.0), (12, 20_480.0), (13, 21_600.0), (10_000, 21_600.0)],
)
def test_retries_come_at_growing_intervals_with_some_spread(failures: int, delay_s: float) -> None:
    params = Params()
    delays = {retry_delay_s(f"e{i}", failures, params) for i in range(50)}

    assert all(delay_s <= delay <= delay_s * 1.1 for delay in delays)
    assert len(delays) == 50
    assert retry_delay_s("e1", failures, params) in delays


def test_before_its_retry_nothing_starts_and_the_reason_is_said() -> None:
    plan = decide(snapshot(failing(failures=3, ago_s=10.0)))

    assert plan.starts == ()
    (state,) = plan.states
    due_at = NOW - 10.0 + retry_delay_s("embed", 3, Params())
    assert state.condition.retry_at == plan.wake_at == due_at
    assert (state.condition.state, state.condition.code, state.condition.workers) == (
        "unhealthy",
        "BACKOFF",
        2,
    )
    assert state.condition.detail.startswith(
        "3 failed starts in a row, the last: OSError: disk full; tried again in 3"
    )


def test_when_the_retry_is_due_one_start_is_tried() -> None:
    plan = decide(snapshot(failing(ago_s=11.5)))

    assert len(plan.starts) == 1
    assert plan.states[0].condition.detail.endswith("tried again now")


def test_while_one_is_tried_no_other_is() -> None:
    plan = decide(snapshot(failing(ago_s=11.5), [worker(state="initializing")]))

    assert plan.starts == ()
    assert [state.condition.code for state in plan.states] == ["BACKOFF"]


def test_without_demand_nothing_is_tried() -> None:
    plan = decide(snapshot(failing(queued=0, ago_s=1000.0)))

    assert plan.starts == ()
    assert plan.wake_at is None
    assert [state.condition.workers for state in plan.states] == [0]


def test_after_seven_days_it_is_given_up() -> None:
    plan = decide(snapshot(failing(failures=40, ago_s=9 * 3600, first_failure_at=NOW - 7 * DAY_S)))

    assert plan.starts == ()
    assert plan.wake_at is None
    (state,) = plan.states
    assert (state.condition.code, state.condition.retry_at) == ("GIVEN_UP", None)
    assert state.condition.detail.endswith("not tried again after 7.0 days")


def test_shortly_before_seven_days_it_is_not() -> None:
    plan = decide(snapshot(failing(failures=40, ago_s=9 * 3600, first_failure_at=NOW - 6.99 * DAY_S)))

    assert len(plan.starts) == 1


def test_a_failure_whose_time_is_unknown_is_tried_at_once() -> None:
    plan = decide(snapshot(failing(last_failure_at=None, first_failure_at=None, last_failure_reason="")))

    assert len(plan.starts) == 1
    assert "no reason given" in plan.states[0].condition.detail


def test_a_failing_endpoint_comes_after_the_healthy_ones() -> None:
    endpoints = [
        failing(name="a", ago_s=60.0, needs=GPU),
        endpoint("b", queued=1, needs=GPU),
    ]

    plan = decide(snapshot(endpoints, hosts=[host(gpus=["GPU-1"])]))

    assert [start.endpoint for start in plan.starts] == ["b"]
    assert [(state.endpoint, state.condition.state) for state in plan.states] == [("a", "throttled")]


def test_a_silent_worker_is_given_up_and_replaced_in_the_same_plan() -> None:
    silent = worker("w1", "running", age_s=100.0, beat_at=NOW - 15.1)

    plan = decide(snapshot(endpoint(workers=(1, 1)), [silent]))

    assert [(stop.worker, stop.reason) for stop in plan.stops] == [
        ("w1", "silent for 15.1 s while running, its lease is 15 s")
    ]
    assert [start.ordinal for start in plan.starts] == [1]


def test_a_worker_booked_on_a_host_that_is_gone_is_replaced_elsewhere_in_the_same_plan() -> None:
    booked = worker("w1", "initializing", age_s=6.0, beat_at=NOW - 6.0, lease_s=30.0, reported=False)
    gone, other = host("h1", beat_at=NOW - 15.1), host("h2")

    plan = decide(snapshot(endpoint(workers=(0, 1), queued=1, waits_s=(6.0,)), [booked], [gone, other]))

    assert [(stop.worker, stop.reason) for stop in plan.stops] == [
        ("w1", "ordered 6.0 s ago on host h1, which is silent")
    ]
    assert [start.host for start in plan.starts] == ["h2"]


@pytest.mark.parametrize("changes", [{"reported": True}, {"host": "h2"}], ids=["reported", "host-lives"])
def test_a_worker_that_starts_is_left_alone(changes: dict[str, Any]) -> None:
    """Given one that has reported (REAP judges it), or whose host is heard of, expect it to be waited for."""
    fields: dict[str, Any] = {"beat_at": NOW - 6.0, "lease_s": 30.0, "reported": False}
    starting = worker("w1", "initializing", age_s=6.0, **{**fields, **changes})

    plan = decide(
        snapshot(endpoint(workers=(0, 1), queued=1), [starting], [host("h1", beat_at=NOW - 16), host("h2")])
    )

    assert plan.stops == ()
    assert plan.starts == ()


def test_a_worker_that_never_reported_is_given_up_after_its_lease() -> None:
    started = worker("w1", "initializing", age_s=15.0, beat_at=NOW - 15.0)

    assert decide(snapshot(endpoint(workers=(1, 1)), [started])).stops == ()
    late = worker("w1", "initializing", age_s=15.5, beat_at=NOW - 15.5)
    assert len(decide(snapshot(endpoint(workers=(1, 1)), [late])).stops) == 1
