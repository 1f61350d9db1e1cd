"""How many workers a queue wants, by rule; and what is held back, with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.views import Params
from tests.unit.scaling_world import NOW, endpoint, snapshot, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

INITIALIZING = "initializing"


def starts(
    *, workers: Sequence[str] = (), max_workers: int = 10, params: Params | None = None, **fields: Any
) -> int:
    """How many workers are started beside some in these states."""
    staff = [worker(f"w{i}", state, age_s=0.0) for i, state in enumerate(workers)]
    fields.setdefault("running", workers.count("running"))
    fields.setdefault("elapsed_s", (0.0,) * workers.count("running"))
    view = endpoint(workers=(0, max_workers), **fields)
    return len(decide(snapshot(view, staff), params or Params()).starts)


@pytest.mark.parametrize(
    ("expected", "fields"),
    [
        # No estimate of the service time: every job without a slot wants a worker.
        (5, {"queued": 5}),
        (4, {"queued": 5, "workers": ["idle"]}),
        (4, {"queued": 5, "workers": [INITIALIZING]}),
        (5, {"queued": 5, "workers": ["running"]}),
        (10, {"queued": 500}),
        # With one, a running worker's slot counts when it comes free within a start.
        (0, {"queued": 1, "workers": ["running"], "service_s": 0.5, "cold_s": 1.0}),
        (1, {"queued": 1, "workers": ["running"], "service_s": 1.5, "cold_s": 1.0}),
        (0, {"queued": 2, "workers": ["running"], "service_s": 0.5, "cold_s": 1.0}),
        (1, {"queued": 3, "workers": ["running"], "service_s": 0.5, "cold_s": 1.0}),
        # An idle worker takes jobs in turns.
        (0, {"queued": 11, "workers": ["idle"], "service_s": 0.1, "cold_s": 1.0}),
        (1, {"queued": 12, "workers": ["idle"], "service_s": 0.1, "cold_s": 1.0}),
        (0, {"queued": 10**9, "workers": ["idle"], "service_s": 0.0, "cold_s": 1.0}),
        # A job that has run longer than usual counts a quarter of the usual time.
        (0, {"queued": 1, "workers": ["running"], "elapsed_s": (99.0,), "service_s": 4.0, "cold_s": 1.0}),
        (1, {"queued": 1, "workers": ["running"], "elapsed_s": (99.0,), "service_s": 4.4, "cold_s": 1.0}),
        # Several jobs at once in one worker.
        (2, {"queued": 5, "concurrency": 4}),
        (1, {"queued": 5, "concurrency": 4, "workers": ["running"]}),
        (0, {"queued": 3, "concurrency": 4, "workers": ["running"]}),
    ],
)
def test_earliest_finish(expected: int, fields: dict[str, Any]) -> None:
    assert starts(**fields) == expected


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # 10 jobs of 1 s, one worker busy with one, a start takes 4 s.
    [(2.0, 1), (1.0, 6), (0.5, 8), (0.0, 10)],
)
def test_alpha_trades_waiting_for_workers(alpha: float, expected: int) -> None:
    many = starts(
        queued=10, workers=["running"], max_workers=20, service_s=1.0, cold_s=4.0, params=Params(alpha=alpha),
    )  # fmt: skip

    assert many == expected


def test_an_idle_worker_that_takes_nothing_is_not_counted_on() -> None:
    waiting = endpoint(queued=1, waits_s=(7.0,))

    assert decide(snapshot(waiting, [worker(age_s=5.0)])).starts == ()
    assert len(decide(snapshot(waiting, [worker(age_s=8.0)])).starts) == 1


def test_a_withheld_start_says_so_with_the_numbers_and_when_it_is_due() -> None:
    busy = endpoint(
        queued=3, waits_s=(4.0, 2.0, 1.0), running=1, elapsed_s=(1.0,), service_s=2.0, cold_s=20.0
    )

    plan = decide(snapshot(busy, [worker(state="running")]))

    assert plan.starts == ()
    (withheld,) = plan.withheld
    assert withheld.code == "QUEUE_SOON_EMPTY"
    assert withheld.detail == (
        "3 queued, 0 of them with a slot: the queue will be empty in about 5.00 s, a start takes 20.00 s"
    )
    assert withheld.due_at == plan.wake_at == NOW + 16.0


def test_at_the_due_time_the_withheld_start_is_made() -> None:
    busy = endpoint(
        queued=3, waits_s=(20.0, 18.0, 17.0), running=1, elapsed_s=(1.0,), service_s=2.0, cold_s=20.0
    )

    plan = decide(snapshot(busy, [worker(state="running")]))

    (start,) = plan.starts
    assert start.reason == "3 queued, the oldest for 20.00 s: as long as a start takes (20.00 s)"
    assert [withheld.due_at for withheld in plan.withheld] == [NOW + 2.0]


@pytest.mark.parametrize(
    ("waited_s", "workers", "expected"),
    [(3.9, [], 0), (4.0, [], 3), (4.0, ["idle"], 2), (4.0, [INITIALIZING, "idle"], 1), (9.0, ["running"], 3)],
)
def test_queue_delay(waited_s: float, workers: list[str], expected: int) -> None:
    many = starts(
        queued=3, waits_s=(waited_s, 1.0, 0.0), workers=workers, scaler_type="QUEUE_DELAY", service_s=0.01
    )

    assert many == expected


def test_queue_delay_holds_with_the_time_it_ends() -> None:
    waiting = endpoint(queued=1, waits_s=(1.5,), scaler_type="QUEUE_DELAY")

    plan = decide(snapshot(waiting))

    (withheld,) = plan.withheld
    assert withheld.detail == "QUEUE_DELAY: the oldest of 1 queued has waited 1.50 s, less than 4 s"
    assert plan.wake_at == NOW + 2.5


@pytest.mark.parametrize(
    ("queued", "running", "value", "expected"),
    [
        (0, 0, 4.0, 0),
        (1, 0, 4.0, 1),
        (4, 0, 4.0, 1),
        (5, 0, 4.0, 2),
        (4, 1, 4.0, 1),  # ceil(5 / 4) = 2, one is there
        (90, 0, 1.0, 10),
    ],
)
def test_request_count(queued: int, running: int, value: float, expected: int) -> None:
    many = starts(
        queued=queued, workers=["running"] * running,
        scaler_type="REQUEST_COUNT", scaler_value=value,
    )  # fmt: skip

    assert many == expected


def test_request_count_keeps_the_workers_it_counts() -> None:
    counted = endpoint(
        workers=(0, 3), running=8, elapsed_s=(1.0,) * 8, concurrency=8, scaler_type="REQUEST_COUNT"
    )
    staff = [worker("w1", "running", jobs=8), worker("w2", age_s=999.0), worker("w3", age_s=900.0)]

    plan = decide(snapshot(counted, staff))

    assert [drain.worker for drain in plan.drains] == ["w2"]
    assert plan.starts == ()


def test_a_paused_endpoint_starts_nothing_above_its_minimum() -> None:
    plan = decide(snapshot(endpoint(workers=(1, 5), queued=9, paused=True)))

    assert [start.reason for start in plan.starts] == ["minimum: 0 of 1 workers"]


def test_draining_unhealthy_and_throttled_workers_are_no_capacity() -> None:
    staff = [
        worker("w1", draining=True),
        worker("w2", "unhealthy"),
        worker("w3", "throttled"),
    ]

    plan = decide(snapshot(endpoint(workers=(0, 3), queued=5), staff))

    # Only the draining one still counts against the maximum of 3.
    assert [start.ordinal for start in plan.starts] == [2, 3]
