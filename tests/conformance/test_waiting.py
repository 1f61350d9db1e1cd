"""What becomes of a job that waits: CANCEL, DELETE, REQUEUE, PURGE, its ttl, its delay."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.lifecycle import JobState
from tests.conformance.world import EP, World, holds

# -- cancel, delete, requeue, purge ------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"priority": 2}, {"delay_ms": 5000}, {"ttl_ms": 5000}])
def test_a_waiting_job_is_cancelled_at_once(world: World, options: dict[str, Any]) -> None:
    job = world.submit(**options)

    assert world.run(world.t.cancel(job)) == "cancelled"
    assert world.resent == "cancelled"
    assert world.job(job)["fq_reason"] == "cancelled"
    assert world.claim(world.worker()) == []


def test_cancel_of_what_is_not_there(world: World) -> None:
    assert world.run(world.t.cancel("embed-x")) == "unknown"


def test_cancel_leaves_an_ended_job_as_it_is(world: World) -> None:
    held = world.running()
    world.finish(held)

    assert world.run(world.t.cancel(held.job)) == "finished"


def test_only_ended_jobs_are_deleted(world: World) -> None:
    job = world.submit()
    assert world.run(world.t.delete(job)) == "queued"
    (held,) = world.claim(world.worker())
    assert world.run(world.t.delete(job)) == "running"
    world.run(world.t.log(job, 1, 0, b"output"))
    world.finish(held)

    assert world.run(world.t.delete(job)) == "ok"
    assert world.resent == "unknown"
    assert not [key for key in world.snapshot() if job in key]


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_a_requeued_job_begins_anew(world: World, state: str) -> None:
    held = world.running(max_deliveries=2, priority=3)
    world.finish(held, state, reason="exception", text="ValueError: no", keep_s=60)

    assert world.run(world.t.requeue(held.job)) == "ok"
    job = world.job(held.job)
    assert holds(job, fq_gen="1", fq_attempts="0", fq_max_losses="2", fq_call="call")
    assert not {"fq_outcome", "fq_reason", "fq_error", "fq_losses", "fq_retries", "ended_at"} & job.keys()
    (again,) = world.claim(world.worker())
    assert (again.job, again.fence, again.generation, again.attempt) == (held.job, 2, 1, 1)
    assert world.finish(held) == "stale"


def test_a_requeue_that_is_sent_again_begins_nothing_twice(world: World) -> None:
    """Row 2. Given a requeue whose answer was lost, if the job fails before it is sent again, expect no third run."""
    held = world.running()
    world.finish(held, "failed")
    requeue = world.t.requeue(held.job)
    assert world.run(requeue) == "ok"
    assert world.resent == "ok"
    (again,) = world.claim(world.worker())
    world.finish(again, "failed")

    assert world.run(requeue) == "ok"
    assert (world.state(held.job), world.job(held.job)["fq_gen"]) == (JobState.FAILED, "1")
    assert world.run(world.t.requeue(held.job)) == "ok"
    assert (world.state(held.job), world.job(held.job)["fq_gen"]) == (JobState.QUEUED, "2")


def test_a_finished_or_waiting_job_cannot_be_requeued(world: World) -> None:
    held = world.running()
    assert world.run(world.t.requeue(held.job)) == "running"
    world.finish(held)
    assert world.run(world.t.requeue(held.job)) == "finished"
    assert world.run(world.t.requeue("embed-x")) == "unknown"


def test_purge_cancels_what_waits_and_nothing_else(world: World) -> None:
    running = world.running()
    waiting = [
        world.submit(),
        world.submit(priority=4),
        world.submit(delay_ms=9000),
        world.submit(ttl_ms=9000),
    ]

    assert world.run(world.t.purge(EP)) == 4
    assert world.resent == 0
    assert {world.state(job) for job in waiting} == {JobState.CANCELLED}
    assert {world.job(job)["fq_reason"] for job in waiting} == {"purged"}
    assert world.state(running.job) == JobState.RUNNING


def test_purge_is_bounded(world: World) -> None:
    for _ in range(3):
        world.submit()

    assert world.run(world.t.purge(EP, limit=2), again=False) == 2
    assert world.run(world.t.purge(EP, limit=2)) == 1


def test_an_endpoint_that_cannot_start_fails_what_waits_for_that_revision(world: World) -> None:
    old = world.submit()
    world.register(revision="r2")
    new = world.submit(revision="r2")
    high = world.submit(revision="r2", priority=1)

    assert world.run(world.t.fail_waiting(EP, "r2", "it does not load")) == 2
    assert [world.state(job) for job in (old, new, high)] == ["queued", "failed", "failed"]
    told = world.watch(new)
    assert (told.reason, told.text) == ("start", "it does not load")


# -- time to live, delay -----------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("priority", [0, 5])
def test_a_job_expires_past_its_ttl(world: World, own: bool, priority: int) -> None:
    job = world.submit(ttl_ms=2000, own_ttl=own, priority=priority)
    world.reap()
    world.pass_ms(1999)
    assert world.reap().expired == 0
    world.pass_ms(1)

    assert world.reap().expired == 1
    assert world.state(job) == JobState.TIMED_OUT
    assert world.watch(job).reason == "expired"


def test_a_job_past_its_ttl_is_not_claimed(world: World) -> None:
    job = world.submit(ttl_ms=2000, own_ttl=False)
    world.pass_ms(2000)

    assert world.claim(world.worker()) == []
    assert world.state(job) == JobState.TIMED_OUT


def test_a_delayed_job_expires_too(world: World) -> None:
    job = world.submit(ttl_ms=2000, delay_ms=60_000)
    world.pass_ms(62_000)
    world.reap()
    world.pass_ms(2000)
    world.reap()

    assert world.state(job) == JobState.TIMED_OUT


def test_a_job_that_began_in_time_does_not_expire(world: World) -> None:
    held = world.running(ttl_ms=2000)
    world.pass_ms(3000)
    world.reap()

    assert world.state(held.job) == JobState.RUNNING
    assert world.finish(held) == "ok"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("how", ["retry", "crash"])
def test_a_job_that_began_in_time_may_be_run_again_later(world: World, own: bool, how: str) -> None:
    held = world.running(ttl_ms=2000, own_ttl=own)
    world.pass_ms(3000)
    if how == "retry":
        world.finish(held, "retry")
    else:
        world.run(world.t.crash(held.job, held.fence, "killed", b"", 60))
    world.reap()

    assert [again.job for again in world.claim(world.worker())] == [held.job]


def test_a_job_that_was_given_back_unbegun_still_expires(world: World) -> None:
    job = world.submit(ttl_ms=2000)
    behind = world.submit(ttl_ms=2000, own_ttl=False)
    (held,) = world.claim(world.worker(), start=0)
    world.run(world.t.release(job, held.fence))
    world.pass_ms(2000)
    world.reap()

    assert world.state(job) == world.state(behind) == JobState.TIMED_OUT


def test_what_may_run_again_does_not_keep_others_from_expiring(world: World) -> None:
    held = world.running(ttl_ms=2000, own_ttl=False)
    behind = world.submit(ttl_ms=2000, own_ttl=False)
    world.run(world.t.crash(held.job, held.fence, "killed", b"", 60))
    world.pass_ms(2000)
    world.reap()

    assert world.listed("queue") == [held.job]
    assert world.state(behind) == JobState.TIMED_OUT


@pytest.mark.parametrize("priority", [0, 5])
def test_a_delayed_job_waits_for_its_time(world: World, priority: int) -> None:
    job = world.submit(delay_ms=2000, priority=priority)
    worker = world.worker()
    assert world.state(job) == JobState.SCHEDULED
    assert world.claim(worker) == []
    world.pass_ms(1999)
    assert world.reap().promoted == 0
    world.pass_ms(1)

    assert world.reap().promoted == 1
    assert world.listed("bell", worker) == ["job"]
    assert [held.job for held in world.claim(worker)] == [job]


def test_delayed_jobs_come_in_the_order_of_their_times(world: World) -> None:
    late, soon = world.submit(delay_ms=2000), world.submit(delay_ms=1000)
    world.pass_ms(2000)
    world.reap()

    assert world.listed("queue") == [soon, late]
