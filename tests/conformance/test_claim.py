"""CLAIM, the ring that brings a job with it, and RECOVER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.model.lifecycle import JobState
from flashq.store.replies import handed_over
from tests.conformance.world import EP, LEASE_MS, World, holds

if TYPE_CHECKING:
    from flashq.store.records import Claimed

# -- claiming ----------------------------------------------------------------------------------------


def test_a_claim_answers_with_all_a_worker_needs(world: World) -> None:
    job = world.submit(call=b"signed\x00\xff call")
    world.pass_ms(5)
    worker = world.worker()
    answer = world.claim_as(worker)

    (held,) = answer.jobs
    assert (answer.verdict, answer.now_ms) == ("ok", world.now_ms)
    assert (held.job, held.fence, held.call, held.revision) == (job, 1, b"signed\x00\xff call", "r1")
    assert (held.generation, held.attempt, held.losses, held.retries_used) == (0, 1, 0, 0)
    assert (held.enqueued_ms, held.cold) == (world.now_ms - 5, True)
    assert holds(world.job(job), fq_state="running", status="started", worker_name=worker)
    assert world.scores("leases") == {job: world.now_ms + LEASE_MS}
    assert world.scores("wip") == {f"{job}:1": float("inf")}


def test_a_resent_claim_gets_the_same_answer(world: World) -> None:
    for _ in range(4):
        world.submit()
    answer = world.claim_as(world.worker(), count=2)

    assert [held.job for held in answer.jobs] == ["embed-0001", "embed-0002"]
    assert world.resent == answer
    assert world.listed("queue") == ["embed-0003", "embed-0004"]


def test_a_resent_claim_leaves_out_what_is_no_longer_held(world: World) -> None:
    first, second = world.submit(), world.submit()
    worker = world.worker()
    answer = world.claim_as(worker, count=2, start=2, nonce="n")
    world.finish(answer.jobs[0])

    assert [held.job for held in world.claim_as(worker, count=2, start=2, nonce="n").jobs] == [second]
    assert world.state(first) == JobState.FINISHED


def test_the_first_claimed_begin_and_the_rest_wait_in_hand(world: World) -> None:
    for _ in range(3):
        world.submit()
    answer = world.claim_as(world.worker(), count=3, start=1)

    assert [world.state(held.job) for held in answer.jobs] == ["running", "claimed", "claimed"]
    assert [held.attempt for held in answer.jobs] == [1, 1, 1]
    assert [world.job(held.job).get("fq_attempts", "0") for held in answer.jobs] == ["1", "0", "0"]


def test_no_claim_for_a_worker_that_is_not_known(world: World) -> None:
    world.submit()
    world.register("other")
    elsewhere = world.worker("other")

    assert world.claim_as("embed-w0").verdict == "gone"
    assert world.claim_as(elsewhere).verdict == "gone"
    assert world.listed("queue") == ["embed-0001"]


def test_a_paused_endpoint_gives_nothing(world: World) -> None:
    world.submit()
    worker = world.worker()
    world.redis.hset(world.keys.of("endpoint", EP), "paused", 1)
    assert world.claim(worker) == []

    world.redis.hdel(world.keys.of("endpoint", EP), "paused")
    assert len(world.claim(worker)) == 1


def test_a_worker_is_idle_while_it_has_room(world: World) -> None:
    worker = world.worker()
    world.claim(worker)
    assert world.scores("idle") == {worker: world.now_ms}
    assert holds(world.hash("worker", worker), fq_state="idle", state="idle")
    since = world.now_ms
    world.pass_ms(100)

    job = world.submit()  # takes it off the idle set, to wake it
    assert world.scores("idle") == {}
    (held,) = world.claim(worker)
    assert held.job == job
    record = world.hash("worker", worker)
    assert holds(record, fq_state="running", state="busy", fq_jobs="1")
    assert (record["fq_since"], world.scores("idle")) == (str(world.now_ms), {})
    assert since < world.now_ms


def test_who_became_idle_last_is_woken_first(world: World) -> None:
    early = world.worker()
    world.claim(early)
    world.pass_ms(5000)
    late = world.worker()
    world.claim(late)
    world.pass_ms(1000)
    world.claim(early)  # it looks again: that makes it no younger

    world.submit()
    assert (world.listed("bell", early), world.listed("bell", late)) == ([], ["job"])


# -- handed over with the ring of the bell -----------------------------------------------------------


def idle(world: World, room: int = 1) -> str:
    """An idle worker that takes jobs with the ring."""
    worker = world.worker(fq_takes=LEASE_MS)
    world.claim(worker, count=room)
    return worker


def heard(world: World, worker: str) -> list[Claimed]:
    """The jobs that came with the rings of a worker's bell."""
    rings: list[bytes] = []
    while (ring := world.redis.lpop(world.keys.of("bell", worker))) is not None:
        rings.append(ring)
    assert all(ring.startswith(b"claim:") for ring in rings)
    return [handed_over(ring.removeprefix(b"claim:")) for ring in rings]


def test_an_idle_worker_is_handed_the_job(world: World) -> None:
    worker = idle(world)
    call = bytes(range(256)) + b"12:34"
    job = world.submit(call=call, ttl_ms=5000)

    (held,) = heard(world, worker)
    assert (held.job, held.fence, held.call, held.attempt, held.cold) == (job, 1, call, 1, False)
    assert world.state(job) == JobState.CLAIMED
    assert world.scores("leases") == {job: world.now_ms + LEASE_MS}
    assert holds(world.hash("worker", worker), fq_state="running", state="busy", fq_jobs="1")
    assert world.scores("idle") == {}
    assert world.run(world.t.start(job, held.fence)) == "ok"
    assert world.finish(held) == "ok"


def test_it_is_handed_as_many_as_it_has_room_for(world: World) -> None:
    worker = idle(world, room=2)
    jobs = [world.submit() for _ in range(3)]

    assert [held.job for held in heard(world, worker)] == jobs[:2]
    assert world.listed("queue") == jobs[2:]


def test_who_waited_longer_is_handed_over_first(world: World) -> None:
    first = world.submit()
    worker = idle(world, room=0)  # it had no room when it looked
    world.redis.zadd(world.keys.of("idle", EP), {worker: world.now_ms})
    second = world.submit()

    assert [held.job for held in heard(world, worker)] == [first]
    assert world.listed("queue") == [second]


def test_a_large_call_is_only_rung_for(world: World) -> None:
    worker = idle(world)
    job = world.submit(call=b"x" * 40_000)

    assert world.listed("bell", worker) == ["job"]
    assert [held.job for held in world.claim(worker)] == [job]


def test_a_paused_endpoint_hands_nothing_over(world: World) -> None:
    idle(world)
    world.redis.hset(world.keys.of("endpoint", EP), "paused", 1)

    assert world.state(world.submit()) == JobState.QUEUED


def test_a_ring_that_was_not_heard_is_recovered(world: World) -> None:
    worker = idle(world, room=2)
    job, other = world.submit(), world.submit()
    world.redis.delete(world.keys.of("bell", worker))

    answer = world.run(world.t.recover(EP, worker, [other]))
    assert [(held.job, held.fence, held.attempt) for held in answer.jobs] == [(job, 1, 1)]
    assert world.run(world.t.recover(EP, "w9", [])).jobs == ()


def test_what_was_handed_to_a_worker_that_died_comes_back_uncounted(world: World) -> None:
    worker = idle(world)
    job = world.submit()
    world.run(world.t.leave(EP, worker, "killed"))

    (held,) = world.claim(world.worker())
    assert (held.job, held.fence, held.losses, held.attempt) == (job, 2, 0, 1)
