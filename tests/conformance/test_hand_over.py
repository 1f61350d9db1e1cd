"""SUBMIT hands an idle worker its job with the ring of its bell: claimed, and begun only by START."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.replies import handed_over
from tests.conformance.world import EP, LEASE_MS, World

if TYPE_CHECKING:
    from flashq.store.records import Claimed


def idle(world: World, *, room: int = 1) -> str:
    """A worker that takes jobs with the ring, and has looked for one in vain."""
    worker = world.worker()
    assert world.join(worker, fq_takes=LEASE_MS).verdict == "ok"
    look(world, worker, room=room)
    return worker


def look(
    world: World, worker: str, *, count: int = 1, room: int = 1, holding: int = 0
) -> tuple[Claimed, ...]:
    command = world.t.claim(
        EP, worker, "n", count=count, lease_ms=LEASE_MS, start=0, holding=holding, room=room
    )
    return world.run(command).jobs


def heard(world: World, worker: str) -> list[Claimed]:
    """The jobs on a worker's bell, which is read by this."""
    tokens = world.redis.lrange(world.keys.of("bell", worker), 0, -1)
    world.redis.delete(world.keys.of("bell", worker))
    return [handed_over(token[6:]) for token in tokens if token.startswith(b"claim:")]


def test_a_handed_job_is_claimed_and_has_not_begun(world: World) -> None:
    worker = idle(world)
    job = world.submit(call=b"any:\xff\n bytes")

    assert world.job(job)["fq_state"] == JobState.CLAIMED
    assert "fq_attempts" not in world.job(job)
    assert world.scores("leases") == {job: world.now_ms + LEASE_MS}
    assert world.hash("worker", worker)["fq_jobs"] == "1"
    (held,) = heard(world, worker)
    assert (held.job, held.fence, held.attempt, held.call) == (job, 1, 1, b"any:\xff\n bytes")
    assert world.run(world.t.start(job, held.fence)) == "ok"
    assert world.finish(held) == "ok"


def test_who_has_a_ring_unread_is_handed_nothing_more(world: World) -> None:
    worker = idle(world)
    first, second = world.submit(), world.submit()
    look(world, worker, count=0, holding=0)
    third = world.submit()

    assert [world.state(job) for job in (first, second, third)] == ["claimed", "queued", "queued"]
    assert world.listed("wake", "") == ["1"]
    assert [held.job for held in heard(world, worker)] == [first]


def test_a_worker_with_room_for_two_is_handed_two(world: World) -> None:
    worker = idle(world, room=2)
    jobs = [world.submit() for _ in range(3)]

    assert [world.state(job) for job in jobs] == ["claimed", "claimed", "queued"]
    assert [held.job for held in heard(world, worker)] == jobs[:2]


def test_an_older_job_is_handed_first_and_the_new_one_heard(world: World) -> None:
    older = world.submit()
    (held,) = world.claim(world.worker(), start=0)
    first, other = idle(world), idle(world)
    world.pass_ms(1)
    with world.tampering() as redis:  # it went back without anybody being rung for
        world.run(world.t.release(held.job, held.fence))
        redis.delete(world.keys.of("bell", first), world.keys.of("bell", other))
        redis.zadd(world.keys.of("idle", EP), {first: 1, other: 2})
    new = world.submit()

    assert (world.state(older), world.state(new)) == ("claimed", "queued")
    assert [row.job for row in heard(world, other)] == [older]
    assert world.listed("bell", first) == ["job"]


def test_a_ring_that_was_lost_is_recovered(world: World) -> None:
    worker = idle(world, room=2)
    known, lost = world.submit(), world.submit()
    handed = {held.job: held for held in heard(world, worker)}

    (again,) = world.run(world.t.recover(EP, worker, [known])).jobs
    assert again == handed[lost]
    assert world.run(world.t.start(again.job, again.fence)) == "ok"
    assert world.run(world.t.recover(EP, worker, [known, lost])).jobs == ()
    assert world.run(world.t.recover(EP, world.worker(), [])).jobs == ()


def test_a_paused_endpoint_hands_nothing_over(world: World) -> None:
    worker = idle(world)
    with world.tampering() as redis:
        redis.hset(world.keys.of("endpoint", EP), "paused", "1")
    job = world.submit()

    assert world.state(job) == JobState.QUEUED
    assert heard(world, worker) == []


def test_a_draining_worker_is_handed_nothing(world: World) -> None:
    worker = idle(world)
    world.run(world.t.drain(EP, worker, "surplus"))
    job = world.submit()

    assert world.state(job) == JobState.QUEUED
    assert set(world.listed("bell", worker)) == {"drain"}


@pytest.mark.parametrize(("size", "state"), [(32_768, "claimed"), (32_769, "queued")])
def test_a_large_call_is_only_rung_for(world: World, size: int, state: str) -> None:
    worker = idle(world)
    job = world.submit(call=b"x" * size)

    assert world.state(job) == state
    assert len(heard(world, worker)) == (state == "claimed")


def test_a_worker_that_does_not_take_them_so_is_only_rung_for(world: World) -> None:
    worker = world.worker()
    look(world, worker)
    job = world.submit()

    assert world.state(job) == JobState.QUEUED
    assert world.listed("bell", worker) == ["job"]


@pytest.mark.parametrize("how", ["leave", "silence"])
def test_what_a_worker_never_heard_goes_back_uncounted(world: World, how: str) -> None:
    worker = idle(world)
    job = world.submit()
    if how == "leave":
        world.run(world.t.leave(EP, worker, "it died"))
    else:
        world.silence()

    assert world.state(job) == JobState.QUEUED
    assert not {"fq_attempts", "fq_losses"} & world.job(job).keys()
    assert world.listed("bell", worker) == []
    (again,) = world.claim(world.worker())
    assert (again.job, again.attempt, again.losses) == (job, 1, 0)


def test_a_handed_job_may_be_cancelled_before_it_is_heard(world: World) -> None:
    worker = idle(world)
    job = world.submit()

    assert world.run(world.t.cancel(job)) == "requested"
    (held,) = heard(world, worker)
    assert world.run(world.t.start(job, held.fence)) == "cancel"
