"""RESTART, HOLD and UNHOLD: jobs of an earlier run of the private broker."""

from __future__ import annotations

import pytest

from flashq.model.lifecycle import JobState
from flashq.store import held
from tests.conformance.world import EP, World


@pytest.fixture(autouse=True)
def _some_are_held(world: World) -> None:
    world.held = True


def restart(world: World) -> int:
    return world.run(held.restart(world.keys, EP))


def test_after_a_restart_nobody_holds_anything(world: World) -> None:
    jobs = [world.submit() for _ in range(4)]
    worker, idle = world.worker(), world.worker()
    world.claim(worker, count=3, start=2)
    world.claim(idle, count=0)

    assert restart(world) == 3
    assert world.resent == 0
    assert world.listed("queue") == jobs
    assert (world.scores("leases"), world.scores("wip"), world.scores("endpoint_workers")) == ({}, {}, {})
    assert world.scores("idle") == {}
    assert [world.job(job).get("fq_losses", "0") for job in jobs] == ["0"] * 4
    assert [again.job for again in world.claim(world.worker(), count=4)] == jobs


def test_a_restart_does_not_run_twice_what_may_run_once(world: World) -> None:
    job = world.running(at_most_once=True).job
    restart(world)

    assert world.state(job) == JobState.FAILED


def test_a_restart_ends_what_was_to_be_cancelled(world: World) -> None:
    job = world.running().job
    world.run(world.t.cancel(job))
    restart(world)

    assert world.state(job) == JobState.CANCELLED


def test_held_jobs_wait_aside_and_come_back(world: World) -> None:
    plain = [world.submit(), world.submit()]
    high, later = world.submit(priority=2), world.submit(delay_ms=5000)
    later_high = world.submit(delay_ms=5000, priority=2)
    assert world.run(held.hold(world.keys, EP)) == 5
    assert world.resent == 5
    assert world.claim(world.worker(), count=9) == []
    new = world.submit()

    assert world.run(held.unhold(world.keys, EP)) == (5, 5)
    assert world.resent == (0, 0)
    assert world.listed("queue") == [*plain, new]
    assert world.listed("queue", "embed--p2") == [high]
    assert set(world.scores("scheduled")) == {later}
    assert set(world.scores("scheduled", "embed--p2")) == {later_high}
    assert [again.job for again in world.claim(world.worker(), count=9)] == [high, *plain, new]


def test_what_was_cancelled_meanwhile_is_not_held(world: World) -> None:
    job, kept = world.submit(), world.submit()
    world.run(held.hold(world.keys, EP))
    world.run(world.t.cancel(job))

    assert world.run(held.hold(world.keys, EP)) == 1
    assert world.listed("queue", held.held_queue(EP)) == [kept]


@pytest.mark.parametrize("delay_ms", [0, 5000])
@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_what_ended_while_it_was_held_and_begins_anew_waits_once(
    world: World, how: str, delay_ms: int
) -> None:
    job = world.submit(delay_ms=delay_ms, ttl_ms=100)
    world.run(held.hold(world.keys, EP))
    if how == "cancel":
        world.run(world.t.cancel(job))
    else:
        world.pass_ms(delay_ms + 100)
        world.reap()
    assert world.state(job) in (JobState.CANCELLED, JobState.TIMED_OUT)
    assert world.run(world.t.requeue(job)) == "ok"

    assert world.listed("queue") == [job]
    assert world.run(held.unhold(world.keys, EP)) == (0, 0)


def test_what_was_deleted_while_it_was_held_is_not_counted(world: World) -> None:
    job = world.submit()
    world.run(held.hold(world.keys, EP))
    world.run(world.t.cancel(job))
    world.run(world.t.delete(job))

    assert world.listed("queue", held.held_queue(EP)) == []


@pytest.mark.parametrize("delay_ms", [0, 5000])
def test_a_purge_cancels_what_is_held_too(world: World, delay_ms: int) -> None:
    """Given a job that is held and one that waits, expect a purge to cancel both, bounded as ever."""
    kept = world.submit(delay_ms=delay_ms)
    world.run(held.hold(world.keys, EP))
    new = world.submit()

    assert [world.run(world.t.purge(EP, 1), again=False) for _ in range(3)] == [1, 1, 0]
    assert [world.state(job) for job in (kept, new)] == [JobState.CANCELLED] * 2
    assert world.run(held.unhold(world.keys, EP)) == (0, 0)
    assert held.held_queue(EP).encode() not in b" ".join(world.redis.smembers(world.keys.of("queues")))


def test_unhold_is_bounded(world: World) -> None:
    jobs = [world.submit() for _ in range(3)]
    world.run(held.hold(world.keys, EP))

    assert world.run(held.unhold(world.keys, EP, 2), again=False) == (2, 2)
    assert world.run(held.unhold(world.keys, EP, 2)) == (1, 1)
    assert world.listed("queue") == jobs


def test_an_endpoint_without_waiting_jobs_holds_none(world: World) -> None:
    assert world.run(held.hold(world.keys, EP)) == 0
    assert held.held_queue(EP).encode() not in b" ".join(world.redis.smembers(world.keys.of("queues")))
