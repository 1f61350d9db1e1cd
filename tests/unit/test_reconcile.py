"""From plan to actions: their order, and that nothing is done twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flashq_autoscaler.decide import decide
from flashq_autoscaler.reconcile import (
    DeclareLost,
    DrainWorker,
    Note,
    SetCondition,
    StartWorker,
    is_news,
    reconcile,
)
from flashq_autoscaler.views import Condition, Needs, Unknown, Withheld
from tests.unit.scaling_world import GPU, NOW, endpoint, host, simulate_apply, snapshot, worker

if TYPE_CHECKING:
    from flashq_autoscaler.views import EndpointView, Snapshot


def actions_of(world: Snapshot) -> list[str]:
    return [type(action).__name__ for action in reconcile(decide(world), world)]


def withholding(**fields: object) -> EndpointView:
    """An endpoint whose second job waits for the first to end."""
    view = endpoint(queued=1, waits_s=(1.0,), running=1, elapsed_s=(1.0,), service_s=2.0, cold_s=20.0)
    return replace(view, **fields)  # type: ignore[arg-type]


def test_losses_come_first_then_drains_starts_conditions_and_notes() -> None:
    world = snapshot(
        [
            endpoint("a", (1, 1)),
            endpoint("b"),
            endpoint("c", queued=1, needs=GPU),
            withholding(name="d"),
        ],
        [
            worker("a1", endpoint="a", beat_at=NOW - 60),
            worker("b1", endpoint="b", age_s=99.0),
            worker("d1", "running", endpoint="d"),
        ],
    )

    plan = decide(world)

    assert reconcile(plan, world) == (
        DeclareLost(plan.stops[0]),
        DrainWorker(plan.drains[0]),
        StartWorker(plan.starts[0]),
        SetCondition("c", plan.states[0].condition),
        Note(plan.withheld[0]),
    )


def test_a_plan_applied_is_not_applied_again() -> None:
    world = snapshot(
        [endpoint("a", (1, 3), queued=2), endpoint("b")],
        [worker("a1", endpoint="a", beat_at=NOW - 60), worker("b1", endpoint="b", age_s=99.0)],
    )
    plan = decide(world)

    after = simulate_apply(world, reconcile(plan, world))

    assert reconcile(plan, after) == ()


def test_what_a_newer_snapshot_has_overtaken_is_left_out() -> None:
    world = snapshot(
        [endpoint("a", (0, 3), queued=2), endpoint("b"), endpoint("c")],
        [worker("b1", endpoint="b", age_s=99.0), worker("c1", endpoint="c", age_s=99.0)],
    )
    plan = decide(world)
    newer = snapshot(
        [endpoint("a", (0, 3), queued=2), endpoint("b"), endpoint("c")],
        [
            worker("a1", "initializing", endpoint="a"),  # another autoscaler has started one
            worker("b1", "running", endpoint="b"),  # it took a job; c1 has ended
        ],
    )

    actions = reconcile(plan, newer)

    assert [action.start.ordinal for action in actions if isinstance(action, StartWorker)] == [2]
    assert not any(isinstance(action, DrainWorker) for action in actions)


def test_a_loss_makes_room_for_a_start_at_maximum() -> None:
    world = snapshot(endpoint(workers=(1, 1)), [worker(beat_at=NOW - 60)])

    assert actions_of(world) == ["DeclareLost", "StartWorker"]


def test_a_condition_is_set_once_and_cleared_once() -> None:
    throttled = snapshot(endpoint(queued=1, needs=GPU))
    after = simulate_apply(throttled, reconcile(decide(throttled), throttled))
    assert not isinstance(after.endpoints, Unknown)
    served = replace(after, endpoints=(replace(after.endpoints[0], queued=0, waits_s=()),))

    assert actions_of(throttled) == ["SetCondition"]
    assert actions_of(after) == []
    assert reconcile(decide(served), served) == (SetCondition("embed", None),)


def test_a_condition_that_says_something_else_is_set_anew() -> None:
    recorded = Condition("throttled", "NO_HOST", "no host is connected", 1)

    assert actions_of(snapshot(endpoint(queued=1, needs=GPU, condition=recorded))) == ["SetCondition"]


def test_a_condition_follows_the_host_that_it_names_and_no_event_tells_of_it() -> None:
    """Given an endpoint throttled by one host, if another takes its place, expect the record to name that; once."""
    wanting = endpoint(queued=1, needs=Needs(cpus=4.0))
    before = snapshot(wanting, hosts=[host("h1", cpus=2.0)])
    (recorded,) = decide(before).states
    assert "host h1" in recorded.condition.detail
    after = snapshot(replace(wanting, condition=recorded.condition), hosts=[host("h2", cpus=3.0)])

    (state,) = decide(after).states
    assert state.condition.same_as(recorded.condition)
    assert state.condition.detail == "needs 4 cores; host h2 has 3 of 3 left beside 0 workers"
    actions = reconcile(decide(after), after)
    assert actions == (SetCondition("embed", state.condition, quiet=True),)
    assert not any(is_news(action) for action in actions)
    assert actions_of(simulate_apply(after, actions)) == []


def test_how_soon_a_start_is_tried_again_is_not_written_all_the_time() -> None:
    failing = endpoint(queued=1, failures=1, first_failure_at=NOW - 2, last_failure_at=NOW - 2)
    (state,) = decide(snapshot(failing)).states
    later = replace(snapshot(replace(failing, condition=state.condition)), now=NOW + 1)

    assert decide(later).states[0].condition.detail != state.condition.detail
    assert reconcile(decide(later), later) == ()


def test_the_condition_of_an_endpoint_that_could_not_be_read_stays() -> None:
    recorded = Condition("throttled", "NO_HOST", "no host is connected", 1)
    unread = replace(endpoint(condition=recorded), queued=Unknown("timeout"))

    assert actions_of(snapshot(unread)) == []


def test_a_note_is_written_once_until_its_time_has_passed() -> None:
    busy = [worker(state="running")]
    recorded = Withheld("embed", "QUEUE_SOON_EMPTY", "", due_at=NOW + 5)

    assert actions_of(snapshot(withholding(), busy)) == ["Note"]
    assert actions_of(snapshot(withholding(withheld=recorded), busy)) == []
    assert actions_of(snapshot(withholding(withheld=replace(recorded, due_at=NOW)), busy)) == ["Note"]
    assert actions_of(snapshot(withholding(withheld=replace(recorded, code="QUEUE_DELAY")), busy)) == ["Note"]


def test_in_an_unknown_world_nothing_is_done() -> None:
    world = snapshot(endpoint(workers=(1, 1)), [worker(beat_at=NOW - 60)])

    assert reconcile(decide(world), replace(world, workers=Unknown("connection lost"))) == ()
