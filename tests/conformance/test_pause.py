"""PAUSE and RESUME: nothing is claimed of a paused endpoint, and nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flashq.model.lifecycle import JobState
from tests.conformance.world import EP, LEASE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable


def idle_worker(world: World, **fields: Any) -> str:
    worker = world.worker(**fields)
    assert world.claim(worker) == []
    return worker


def pause(world: World) -> None:
    assert world.run(world.t.pause(EP)) == "ok"
    assert world.resent == "ok"


def test_a_paused_endpoint_takes_jobs_and_gives_none(world: World) -> None:
    worker = idle_worker(world)
    pause(world)
    jobs = [world.submit(), world.submit(priority=3)]

    assert world.claim(worker, count=2) == []
    assert [world.state(job) for job in jobs] == [JobState.QUEUED] * 2
    assert world.listed("bell", worker) == []
    assert world.hash("endpoint", EP)["paused_at"] == str(world.now_ms)


def test_a_worker_that_takes_jobs_with_its_ring_gets_none_either(world: World) -> None:
    worker = idle_worker(world, fq_takes=LEASE_MS)
    pause(world)
    world.submit()

    assert world.listed("bell", worker) == []


def test_what_was_claimed_goes_on(world: World) -> None:
    running, claimed = world.running(), world.claimed()
    pause(world)

    assert world.run(world.t.start(claimed.job, claimed.fence)) == "ok"
    assert world.finish(running) == "ok"
    assert world.finish(claimed) == "ok"


def due(world: World) -> None:
    world.submit(delay_ms=1000)
    world.redis.delete(world.keys.of("wake"))
    world.pass_ms(1000)
    assert world.reap().promoted == 1


def requeued(world: World) -> None:
    job = world.submit()
    world.run(world.t.cancel(job))
    assert world.run(world.t.requeue(job)) == "ok"


@pytest.mark.parametrize("come", [World.submit, due, requeued])
def test_nobody_is_woken_for_what_cannot_be_claimed(world: World, come: Callable[[World], Any]) -> None:
    worker = idle_worker(world)
    pause(world)
    world.redis.delete(world.keys.of("wake"))
    come(world)

    assert len(world.listed("queue")) == 1
    assert world.listed("bell", worker) == []
    assert list(world.scores("idle")) == [worker]
    assert world.listed("wake", "") == []


def test_resuming_wakes_idle_workers_and_the_autoscaler_at_once(world: World) -> None:
    workers = [idle_worker(world) for _ in range(3)]
    pause(world)
    for _ in range(2):
        world.submit()
    world.redis.delete(world.keys.of("wake"))
    assert world.run(world.t.resume(EP)) == "ok"
    assert world.resent == "ok"

    assert sorted(len(world.listed("bell", worker)) for worker in workers) == [0, 1, 1]
    assert world.listed("wake", "") == ["1"]
    assert not {"paused", "paused_at"} & world.hash("endpoint", EP).keys()
    assert len(world.claim(workers[0], count=2)) == 2


def test_a_pause_outlives_a_new_revision(world: World) -> None:
    worker = idle_worker(world)
    pause(world)
    world.register(revision="r2", environment="env-2", resources="res-2")
    world.submit(revision="r2")

    assert world.claim(worker) == []


def test_cold_is_told_of_what_was_submitted_in_a_pause_too(world: World) -> None:
    pause(world)
    cold = world.submit_as("embed-1").detail
    idle_worker(world)

    assert (cold, world.submit_as("embed-2").detail) == ("1", "0")


def test_what_waits_in_a_pause_still_expires_and_can_be_cancelled(world: World) -> None:
    pause(world)
    old, unwanted = world.submit(ttl_ms=1000), world.submit()
    assert world.run(world.t.cancel(unwanted)) == "cancelled"
    world.pass_ms(1000)
    world.reap()

    assert world.state(old) == JobState.TIMED_OUT


def test_pauses_are_noted_once(world: World) -> None:
    for _ in range(2):
        pause(world)
    world.run(world.t.resume(EP))

    kinds = [kind for kind, _ in world.events()]
    assert [kinds.count(f"endpoint-{what}") for what in ("paused", "resumed")] == [1, 1]


def test_an_endpoint_that_is_not_there_is_neither(world: World) -> None:
    assert world.run(world.t.pause("nobody")) == "unknown"
    assert world.run(world.t.resume("nobody")) == "unknown"
    assert world.hash("endpoint", "nobody") == {}
