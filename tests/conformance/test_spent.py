"""Calls that were completed or deleted are not run again, whoever puts their jobs back, and for how long."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.records import Settlement
from tests.conformance.world import EP, LEASE_MS, World

if TYPE_CHECKING:
    from flashq.store.records import Claimed

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MOST = 120  # calls remembered in one bucket


def put_back(world: World, job: str, copy: dict[str, str]) -> None:
    """What somebody does who kept a copy of a job from when it waited."""
    world.redis.delete(world.keys.of("job", job))
    world.redis.zrem(world.keys.of("finished", EP), job)
    world.redis.hset(world.keys.of("job", job), mapping=copy)
    world.redis.rpush(world.keys.of("queue", EP), job)


def gone(world: World, job: str) -> None:
    """A job's hash has expired, or was deleted with a tool of RQ."""
    with world.tampering() as redis:
        redis.delete(world.keys.of("job", job), world.keys.of("results", job))
        for kind in ("finished", "failed"):
            redis.zrem(world.keys.of(kind, EP), job)


def done(world: World, **terms: Any) -> tuple[str, dict[str, str]]:
    """A completed job, and the copy of when it waited."""
    job = f"{EP}-{uuid.uuid4()}"
    world.submit_as(job, **terms)
    copy = world.job(job)
    (held,) = world.claim(world.worker())
    assert world.finish(held) == "ok"
    return job, copy


@pytest.mark.parametrize("how", ["as it is kept", "after it expired"])
def test_a_completed_call_that_is_put_back_is_refused(world: World, how: str) -> None:
    job, copy = done(world)
    if how == "after it expired":
        gone(world, job)
    with world.tampering():
        put_back(world, job, copy)
        assert world.claim(world.worker()) == []

    assert world.state(job) == JobState.FAILED
    assert world.job(job)["fq_reason"] == "refused"
    assert "put it back" in world.watch(job).text
    assert ("call-replayed", job) in world.events()


def test_a_call_sent_again_after_it_was_run_and_forgotten_makes_no_second_job(world: World) -> None:
    job, _ = done(world)
    gone(world, job)

    assert world.submit_as(job).verdict == "dup"
    assert world.job(job) == {}


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "timed_out"])
def test_a_deleted_call_is_not_run(world: World, state: str) -> None:
    held = world.running()
    world.finish(held, state)
    assert world.run(world.t.delete(held.job), again=False) == "ok"

    assert world.submit_as(held.job).verdict == "dup"
    assert world.claim(world.worker()) == []


def test_what_was_deleted_with_a_tool_of_rq_while_it_ran_is_not_run_again(world: World) -> None:
    held = world.running()
    with world.tampering() as redis:
        redis.delete(world.keys.of("job", held.job))
        assert advance(world, world.worker(), held) == ("gone",)
        world.silence()

    assert world.submit_as(held.job).verdict == "dup"


def advance(world: World, worker: str, held: Claimed) -> tuple[str, ...]:
    """Finish with a worker's step; the verdicts."""
    step = world.t.advance(
        EP,
        worker,
        "n",
        done=[Settlement(held.job, held.fence, "finished", outcome=b"outcome")],
        begin=[],
        count=0,
        lease_ms=LEASE_MS,
        start=0,
        holding=0,
        room=0,
    )
    return world.run(step).finished


@pytest.mark.parametrize("state", ["failed", "cancelled", "timed_out"])
def test_what_did_not_complete_can_be_requeued(world: World, state: str) -> None:
    held = world.running()
    world.finish(held, state)
    assert world.run(world.t.requeue(held.job), again=False) == "ok"

    (again,) = world.claim(world.worker())
    assert again.job == held.job
    assert world.finish(again) == "ok"


@pytest.mark.parametrize(("terms", "days"), [({}, 7), ({"ttl_ms": 5 * DAY_MS}, 12)])
def test_a_call_is_remembered_until_it_has_expired_itself(
    world: World, terms: dict[str, int], days: int
) -> None:
    job, _ = done(world, **terms)
    gone(world, job)
    world.pass_ms(days * DAY_MS)
    assert world.submit_as(job).verdict == "dup"

    world.pass_ms(2 * HOUR_MS)
    assert world.submit_as(job).verdict == "ok"


def test_a_requeued_call_that_completed_is_remembered_for_as_long_as_any_call_may_live(world: World) -> None:
    held = world.running(ttl_ms=30 * DAY_MS)
    world.finish(held, "failed")
    world.run(world.t.requeue(held.job), again=False)
    (again,) = world.claim(world.worker())
    world.finish(again)
    gone(world, held.job)
    world.pass_ms(37 * DAY_MS)

    assert world.submit_as(held.job).verdict == "dup"


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(world: World) -> None:
    jobs = [f"{EP}-{'0' * 8}-0000-4000-8000-{n:012x}" for n in range(MOST + 2)]  # one bucket
    worker = world.worker()
    for job in jobs:
        world.pass_ms(HOUR_MS)
        world.broker.run(world.t.submit(EP, job, revision="r1", call=b"call"))
        (held,) = world.broker.run(
            world.t.claim(EP, worker, job, count=1, lease_ms=LEASE_MS, start=1, holding=0, room=1)
        ).jobs
        world.broker.run(world.t.finish(Settlement(held.job, held.fence, "finished", outcome=b"o")))
        gone(world, job)

    assert len(world.scores("spent", f"{EP}:000")) == MOST
    assert [world.submit_as(job).verdict for job in (*jobs[:3], jobs[-1])] == ["ok", "ok", "dup", "dup"]
