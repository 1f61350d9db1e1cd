"""Spare workers: `buffer` beside those that the rule wants (R3)."""

from __future__ import annotations

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.reconcile import reconcile
from tests.unit.scaling_world import NOW, endpoint, simulate_apply, snapshot, worker


def test_spares_are_started_beside_what_the_rule_wants() -> None:
    before = snapshot(endpoint(workers=(0, 9), queued=2, buffer=2))
    plan = decide(before)
    assert [start.reason.partition(":")[0] for start in plan.starts] == [
        "2 queued, the oldest for 0.00 s"
    ] * 2 + ["buffer"] * 2

    # Expect nothing more once they start, and none beyond max
    assert decide(simulate_apply(before, reconcile(plan, before))).starts == ()
    assert len(decide(snapshot(endpoint(workers=(0, 3), queued=2, buffer=2))).starts) == 3


@pytest.mark.parametrize(
    ("queued", "states", "starts"),
    [
        (0, ["running"], 1),
        (0, ["running", "idle"], 0),
        (0, ["running", "initializing"], 0),
        (1, ["running", "idle"], 1),
        (1, ["running", "idle", "initializing"], 0),
        (0, ["idle"], 0),
        (0, [], 0),
    ],
)
def test_a_spare_is_lacking_or_there(queued: int, states: list[str], starts: int) -> None:
    staff = [worker(f"w{n}", state) for n, state in enumerate(states)]
    view = endpoint(workers=(0, 9), queued=queued, running=states.count("running"), buffer=1)
    assert len(decide(snapshot(view, staff)).starts) == starts


def test_a_job_does_not_wait_for_a_start_where_a_spare_is_idle() -> None:
    """Jobs that many short ones fit before a start has them take turns, whatever the buffer."""
    staff = [worker("w0", "running"), worker("w1", "initializing")]
    view = endpoint(
        workers=(0, 9), queued=3, running=1, elapsed_s=(0.0,), service_s=0.01, cold_s=5.0, buffer=1
    )
    assert decide(snapshot(view, staff)).starts == ()


def test_spares_stay_while_there_is_work_and_go_after() -> None:
    staff = [worker("w0", "running"), worker("w1", age_s=99.0), worker("w2", age_s=98.0)]
    busy = endpoint(workers=(0, 9), running=1, buffer=1)
    assert [drain.worker for drain in decide(snapshot(busy, staff)).drains] == ["w1"]

    done = [worker("w0", age_s=99.0), worker("w1", age_s=99.0)]
    assert len(decide(snapshot(endpoint(workers=(0, 9), buffer=1), done)).drains) == 2


def test_a_paused_endpoint_gets_none() -> None:
    view = endpoint(workers=(0, 9), queued=3, buffer=1, paused=True)
    assert decide(snapshot(view)).starts == ()
    assert NOW
