"""The four scaling lines of the contract, on the default rule, whatever the estimates."""

from __future__ import annotations

import pytest

from flashq_autoscaler.decide import decide
from tests.unit.scaling_world import NOW, endpoint, snapshot, worker

ESTIMATES = pytest.mark.parametrize(
    ("service_s", "cold_s"),
    [(None, None), (1.5, None), (None, 0.2), (1.5, 0.2), (1.5, 1.0), (0.001, 20.0), (600.0, 20.0)],
)


@ESTIMATES
def test_first_job_with_no_worker_starts_one(service_s: float | None, cold_s: float | None) -> None:
    asked = endpoint(workers=(0, 3), queued=1, service_s=service_s, cold_s=cold_s)

    plan = decide(snapshot(asked))

    assert [(start.endpoint, start.ordinal) for start in plan.starts] == [("embed", 1)]
    assert "1 queued" in plan.starts[0].reason


@ESTIMATES
def test_a_started_worker_is_enough_for_the_first_job(service_s: float | None, cold_s: float | None) -> None:
    asked = endpoint(workers=(0, 3), queued=1, waits_s=(30.0,), service_s=service_s, cold_s=cold_s)

    plan = decide(snapshot(asked, [worker(state="initializing", age_s=30.0)]))

    assert plan.starts == ()


@pytest.mark.parametrize("cold_s", [None, 0.15, 0.3])
@pytest.mark.parametrize("service_s", [None, 1.5])
@pytest.mark.parametrize("busy", [1, 2])
def test_jobs_of_1500_ms_arriving_while_workers_are_busy_start_workers_up_to_max(
    busy: int, service_s: float | None, cold_s: float | None
) -> None:
    ran_s = tuple(0.1 + 0.2 * i for i in range(busy))
    asked = endpoint(
        workers=(0, 3), queued=1, running=busy, elapsed_s=ran_s,
        service_s=service_s, cold_s=cold_s if service_s is not None else None,
    )  # fmt: skip
    workers = [worker(f"w{i}", "running") for i in range(busy)]

    plan = decide(snapshot(asked, workers))

    assert [start.ordinal for start in plan.starts] == [busy + 1]


@ESTIMATES
def test_a_job_that_has_waited_as_long_as_a_start_gets_a_worker(
    service_s: float | None, cold_s: float | None
) -> None:
    waited = 1.0 if cold_s is None else cold_s
    asked = endpoint(
        workers=(0, 3), queued=1, waits_s=(waited,), running=1, elapsed_s=(0.0,),
        service_s=service_s, cold_s=cold_s,
    )  # fmt: skip

    plan = decide(snapshot(asked, [worker(state="running")]))

    assert len(plan.starts) == 1


@ESTIMATES
def test_at_max_nothing_more_is_started(service_s: float | None, cold_s: float | None) -> None:
    asked = endpoint(
        workers=(0, 2), queued=9, waits_s=(99.0,) * 9, running=2, elapsed_s=(1.0, 1.0),
        service_s=service_s, cold_s=cold_s,
    )  # fmt: skip

    plan = decide(snapshot(asked, [worker("w1", "running"), worker("w2", "running")]))

    assert plan.starts == ()


def test_after_its_jobs_a_worker_stays_for_idle_timeout() -> None:
    done = endpoint(workers=(0, 3), idle_timeout_s=60.0)

    plan = decide(snapshot(done, [worker("w1", age_s=59.5), worker("w2", age_s=10.0)]))

    assert plan.drains == ()
    assert plan.wake_at == NOW + 0.5


@pytest.mark.parametrize(("minimum", "gone"), [(0, ["w1", "w2", "w3"]), (1, ["w1", "w2"]), (3, [])])
def test_after_idle_timeout_workers_go_back_to_min(minimum: int, gone: list[str]) -> None:
    done = endpoint(workers=(minimum, 3), idle_timeout_s=60.0)
    workers = [worker("w3", age_s=60.0), worker("w1", age_s=80.0), worker("w2", age_s=70.0)]

    plan = decide(snapshot(done, workers))

    assert [drain.worker for drain in plan.drains] == gone
    assert all("idle_timeout 60 s" in drain.reason for drain in plan.drains)


def test_workers_1_n_keeps_one_ready_without_any_job() -> None:
    plan = decide(snapshot(endpoint(workers=(1, 3))))

    assert [start.reason for start in plan.starts] == ["minimum: 0 of 1 workers"]


def test_an_idle_worker_takes_the_job_and_nothing_is_started() -> None:
    plan = decide(snapshot(endpoint(workers=(1, 3), queued=1), [worker()]))

    assert plan.starts == ()
    assert plan.drains == ()
