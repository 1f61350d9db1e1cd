"""Places that jobs lend while they wait for what they called: to that, and to nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashq_autoscaler.decide import decide
from flashq_autoscaler.views import Needs, WorkerView
from tests.unit.scaling_world import GPU, endpoint, host, snapshot, worker


def waiting(name: str = "w1", of: str = "parent", **fields: object) -> WorkerView:
    """A worker whose jobs wait for what they called."""
    return worker(name, "running", endpoint=of, age_s=5.0, lends=True, **fields)


def starts(*args: object, **kwargs: object) -> list[str]:
    return [start.endpoint for start in decide(snapshot(*args, **kwargs)).starts]  # type: ignore[arg-type]


def test_on_one_slot_what_a_job_called_gets_the_slot_of_that_job() -> None:
    parent, child = endpoint("parent", queued=5, running=1), endpoint("child", queued=1, nested=1)

    assert starts([parent, child], [waiting()], [host(slots=1)]) == ["child"]


def test_other_jobs_do_not_get_it() -> None:
    parent, other = endpoint("parent", queued=5, running=1), endpoint("other", queued=1)

    assert starts([parent, other], [waiting()], [host(slots=1)]) == []


def test_what_is_waited_for_comes_before_what_was_there_first() -> None:
    other = endpoint("another", queued=1, waits_s=(9.0,))
    child = endpoint("child", queued=1, nested=1)

    assert starts([other, child], [], [host(slots=1)]) == ["child"]


def test_three_deep_on_one_slot() -> None:
    endpoints = [
        endpoint("first", running=1),
        endpoint("second", running=1),
        endpoint("third", queued=1, nested=1),
    ]
    staff = [waiting("w1", "first"), waiting("w2", "second")]

    assert starts(endpoints, staff, [host(slots=1)]) == ["third"]


def test_cores_are_lent_and_memory_is_not() -> None:
    needs = Needs(cpus=2.0, memory_bytes=1 << 30)
    child = endpoint("child", queued=1, nested=1, needs=needs)
    parent = waiting(cpus=2.0, memory_bytes=1 << 30)

    assert starts(
        [endpoint("parent", running=1), child], [parent], [host(cpus=2.0, memory_bytes=2 << 30)]
    ) == ["child"]
    assert (
        starts([endpoint("parent", running=1), child], [parent], [host(cpus=2.0, memory_bytes=1 << 30)]) == []
    )


def test_a_gpu_is_not_lent() -> None:
    child = endpoint("child", queued=1, nested=1, needs=GPU)
    parent = waiting(gpu_uuids=("GPU-1",))

    plan = decide(
        snapshot([endpoint("parent", running=1, needs=GPU), child], [parent], [host(gpus=["GPU-1"])])
    )

    assert plan.starts == ()
    assert [(state.endpoint, state.condition.code) for state in plan.states] == [("child", "NO_GPU")]
    assert "held by worker w1 of parent" in plan.states[0].condition.detail


@pytest.mark.parametrize(("nested", "started"), [(0, 0), (1, 1)])
def test_an_endpoint_that_calls_itself_has_one_more_worker_for_that_alone(nested: int, started: int) -> None:
    itself = endpoint("parent", workers=(0, 1), queued=50, nested=nested, running=1)

    assert len(starts([itself], [waiting()])) == started


def test_and_a_further_one_where_that_waits_too() -> None:
    itself = endpoint("parent", workers=(0, 1), queued=1, nested=1, running=2)
    staff = [waiting("w1"), waiting("w2")]

    assert starts([itself], staff) == ["parent"]
    assert starts([itself], [waiting("w1"), replace(waiting("w2"), lends=False)]) == [], (
        "one is at work on it"
    )
