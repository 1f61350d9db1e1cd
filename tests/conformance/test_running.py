"""CLAIM, START, FINISH, ADVANCE, CRASH, RELEASE and the cancel of what runs: fences, budgets, attempts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.records import Settlement
from flashq.store.transitions import handed_over
from tests.conformance.world import EP, LEASE_MS, World

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
    assert world.job(job).items() >= {"fq_state": "running", "status": "started", "worker_name": worker}.items()
    assert world.scores("leases") == {job: world.now_ms + LEASE_MS}
    assert world.scores("wip") == {f"{job}:1": float("inf")}


def test_a_resent_claim_gets_the_same_answer(world: World) -> None:
    for _ in range(4):
        world.submit()
    answer = world.claim_as(world.worker(), count=2)

    assert [held.job for held in answer.jobs] == ["embed-0001", "embed-0002"]
    assert world.resent == answer
    assert world.list("queue") == ["embed-0003", "embed-0004"]


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
    assert world.list("queue") == ["embed-0001"]


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
    assert world.hash("worker", worker).items() >= {"fq_state": "idle", "state": "idle"}.items()
    since = world.now_ms
    world.pass_ms(100)

    job = world.submit()  # takes it off the idle set, to wake it
    assert world.scores("idle") == {}
    (held,) = world.claim(worker)
    assert held.job == job
    record = world.hash("worker", worker)
    assert record.items() >= {"fq_state": "running", "state": "busy", "fq_jobs": "1"}.items()
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
    assert (world.list("bell", early), world.list("bell", late)) == ([], ["job"])


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
    assert world.hash("worker", worker).items() >= {"fq_state": "running", "state": "busy", "fq_jobs": "1"}.items()
    assert world.scores("idle") == {}
    assert world.run(world.t.start(job, held.fence)) == "ok"
    assert world.finish(held) == "ok"


def test_it_is_handed_as_many_as_it_has_room_for(world: World) -> None:
    worker = idle(world, room=2)
    jobs = [world.submit() for _ in range(3)]

    assert [held.job for held in heard(world, worker)] == jobs[:2]
    assert world.list("queue") == jobs[2:]


def test_who_waited_longer_is_handed_over_first(world: World) -> None:
    first = world.submit()
    worker = idle(world, room=0)  # it had no room when it looked
    world.redis.zadd(world.keys.of("idle", EP), {worker: world.now_ms})
    second = world.submit()

    assert [held.job for held in heard(world, worker)] == [first]
    assert world.list("queue") == [second]


def test_a_large_call_is_only_rung_for(world: World) -> None:
    worker = idle(world)
    job = world.submit(call=b"x" * 40_000)

    assert world.list("bell", worker) == ["job"]
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


# -- starting ----------------------------------------------------------------------------------------


def claimed(world: World, **options: int) -> Claimed:
    """A job in a worker's hand that has not begun."""
    world.submit(**options)
    (held,) = world.claim(world.worker(), start=0)
    return held


def test_an_attempt_counts_from_start(world: World) -> None:
    held = claimed(world)
    assert world.run(world.t.start(held.job, held.fence)) == "ok"
    assert world.resent == "ok"

    assert world.job(held.job).items() >= {"fq_state": "running", "fq_attempts": "1"}.items()


def test_start_tells_of_a_cancel(world: World) -> None:
    held = claimed(world)
    world.run(world.t.cancel(held.job))

    assert world.run(world.t.start(held.job, held.fence)) == "cancel"


# -- fences ------------------------------------------------------------------------------------------


def stale(world: World) -> tuple[Claimed, Claimed]:
    """A job held under an old and under a new fence."""
    old = world.running()
    world.silence()
    (new,) = world.claim(world.worker())
    assert new.job == old.job
    return old, new


def test_fences_rise(world: World) -> None:
    old, new = stale(world)

    assert (old.fence, new.fence) == (1, 2)


def test_a_stale_holder_changes_nothing(world: World) -> None:
    old, new = stale(world)
    before = world.job(old.job)
    late = Settlement(old.job, old.fence, "finished", outcome=b"late")
    worker = world.worker()

    assert world.run(world.t.start(old.job, old.fence)) == "stale"
    assert world.run(world.t.finish(late)) == "stale"
    assert world.run(world.t.finish(replace(late, state="retry"))) == "stale"
    assert world.run(world.t.finish(replace(late, state="failed"))) == "stale"
    assert world.run(world.t.release(old.job, old.fence)) == "stale"
    assert world.run(world.t.crash(old.job, old.fence, "killed", b"", 60)) == "stale"
    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(old.job, old.fence)]))
    assert renewed.jobs == ("lost",)
    assert world.job(old.job) == before
    assert ("stale-outcome", old.job) in world.events()

    assert world.finish(new, outcome=b"right") == "ok"
    assert world.run(world.t.finish(late)) == "stale"
    assert world.job(old.job)["fq_outcome"] == "right"


def test_a_fence_that_was_never_given_is_refused(world: World) -> None:
    held = world.running()

    assert world.finish(replace(held, fence=held.fence + 1)) == "stale"
    assert world.finish(replace(held, fence=0)) == "stale"
    assert world.state(held.job) == JobState.RUNNING


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "timed_out"])
def test_a_second_outcome_of_the_same_run_changes_nothing(world: World, state: str) -> None:
    held = world.running()
    world.finish(held, state, outcome=b"first")

    assert world.finish(held, "failed", outcome=b"second") == "ok"
    assert world.job(held.job).items() >= {"fq_state": state, "fq_outcome": "first"}.items()
    assert world.redis.xlen(world.keys.of("results", held.job)) == (state != "cancelled")


def test_an_outcome_of_a_deleted_job_is_gone(world: World) -> None:
    held = world.running()
    world.finish(held)
    world.run(world.t.delete(held.job))

    assert world.finish(held) == "gone"


# -- finishing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "registry", "result_type"),
    [
        ("finished", "finished", "finished", b"1"),
        ("failed", "failed", "failed", b"2"),
        ("timed_out", "failed", "failed", b"2"),
        ("cancelled", "canceled", "canceled", None),
    ],
)
def test_an_outcome_is_stored_and_shown(
    world: World, state: str, status: str, registry: str, result_type: bytes | None
) -> None:
    held = world.running(priority=2)
    terms = {"reason": "why", "text": "for people", "outcome": b"signed\x00", "keep_s": 500, "timing": '{"a":1}'}
    assert world.finish(held, state, **terms) == "ok"

    origin = "embed--p2"
    job = world.job(held.job)
    assert job.items() >= {
        "fq_state": state,
        "status": status,
        "fq_reason": "why",
        "fq_error": "for people",
        "fq_outcome": "signed\x00",
        "fq_timing": '{"a":1}',
        "fq_ended": str(world.now_ms),
        "fq_done": "1",
    }.items()
    assert ("fq_call" in job) == (state != "finished")
    assert world.scores(registry, origin) == {held.job: world.now_ms // 1000 + 500}
    assert 490 < world.redis.ttl(world.keys.of("job", held.job)) <= 500
    results = world.redis.xrange(world.keys.of("results", held.job))
    assert [fields[b"type"] for _, fields in results] == ([result_type] if result_type else [])
    assert world.hash("stats", EP)[state] == "1"


def test_a_retry_goes_round_again(world: World) -> None:
    held = world.running()
    behind = world.submit()
    assert world.finish(held, "retry", text="ValueError: no") == "ok"

    assert world.list("queue") == [behind, held.job]
    _, (again,) = world.claim(world.worker()), world.claim(world.worker())
    assert (again.job, again.attempt, again.retries_used, again.losses) == (held.job, 2, 1, 0)
    assert world.finish(again) == "ok"


@pytest.mark.parametrize("priority", [0, 7])
def test_a_retry_after_a_delay(world: World, priority: int) -> None:
    held = world.running(priority=priority)
    assert world.finish(held, "retry", delay_ms=3000) == "ok"
    assert world.state(held.job) == JobState.SCHEDULED
    world.claim(world.worker())
    world.pass_ms(3000)

    assert world.reap().promoted == 1
    assert [again.job for again in world.claim(world.worker())] == [held.job]


def test_a_refused_job_fails_without_an_attempt(world: World) -> None:
    held = claimed(world)

    assert world.finish(held, "failed", reason="refused") == "ok"
    assert "fq_attempts" not in world.job(held.job)


# -- one round trip ----------------------------------------------------------------------------------


def test_advance_finishes_starts_and_claims(world: World) -> None:
    jobs = [world.submit() for _ in range(4)]
    worker = world.worker()
    first, second = world.claim(worker, count=2, start=1)
    answer = world.run(
        world.t.advance(
            EP,
            worker,
            "n",
            done=[Settlement(first.job, first.fence, "finished", outcome=b"one")],
            begin=[(second.job, second.fence, 0)],
            count=1,
            lease_ms=LEASE_MS,
            start=0,
            holding=1,
            room=0,
        )
    )

    assert (answer.finished, answer.started) == (("ok",), ("ok",))
    assert [held.job for held in answer.claim.jobs] == [jobs[2]]
    assert [world.state(job) for job in jobs] == ["finished", "running", "claimed", "queued"]
    assert world.hash("worker", worker)["fq_jobs"] == "2"
    assert world.resent == answer


def test_a_job_may_begin_and_end_within_one_step(world: World) -> None:
    held = claimed(world)
    worker = world.job(held.job)["worker_name"]
    command = world.t.advance(
        EP,
        worker,
        "n",
        done=[Settlement(held.job, held.fence, "finished", outcome=b"one")],
        begin=[(held.job, held.fence, 0)],
        count=0,
        lease_ms=LEASE_MS,
        start=0,
        holding=0,
        room=1,
    )

    assert world.run(command).finished == ("ok",)
    assert world.job(held.job).items() >= {"fq_state": "finished", "fq_attempts": "1"}.items()


def test_advance_says_what_is_stale(world: World) -> None:
    old, _ = stale(world)
    worker = world.worker()
    answer = world.run(
        world.t.advance(
            EP,
            worker,
            "n",
            done=[Settlement(old.job, old.fence, "finished"), Settlement("embed-x", 1, "finished")],
            begin=[(old.job, old.fence, 0)],
            count=0,
            lease_ms=LEASE_MS,
            start=0,
            holding=0,
            room=1,
        )
    )

    assert (answer.finished, answer.started) == (("stale", "gone"), ("stale",))


# -- crashes and losses ------------------------------------------------------------------------------


def crash(world: World, held: Claimed) -> str:
    return world.run(world.t.crash(held.job, held.fence, "killed by SIGSEGV", b"final", 500))


def test_a_crash_is_delivered_again_within_the_budget(world: World) -> None:
    job = world.submit(fields={"fq_max_losses": 2})
    other = world.submit()
    (first,) = world.claim(world.worker())
    assert crash(world, first) == "queued"
    assert world.resent == "queued"
    assert world.list("queue") == [job, other]

    (second,) = world.claim(world.worker())
    assert (second.job, second.fence, second.losses, second.attempt) == (job, 2, 1, 2)
    assert crash(world, second) == "failed"
    assert world.resent == "failed"
    told = world.watch(job)
    assert (told.state, told.reason, told.outcome) == (JobState.FAILED, "lost", b"final")
    assert told.text == "killed by SIGSEGV; run 2 time(s), none of which ended"
    assert world.redis.ttl(world.keys.of("job", job)) <= 500


def test_three_deliveries_unless_told_otherwise(world: World) -> None:
    world.submit()
    said = [crash(world, world.claim(world.worker())[0]) for _ in range(3)]

    assert said == ["queued", "queued", "failed"]


def test_losses_and_retries_have_budgets_of_their_own(world: World) -> None:
    held = world.running(fields={"fq_max_losses": 2})
    world.finish(held, "retry")
    (held,) = world.claim(world.worker())
    crash(world, held)
    (held,) = world.claim(world.worker())
    world.finish(held, "retry")
    (held,) = world.claim(world.worker())

    assert (held.attempt, held.losses, held.retries_used) == (4, 1, 2)
    assert crash(world, held) == "failed"


def test_what_had_not_begun_is_not_counted_as_lost(world: World) -> None:
    held = claimed(world)
    assert crash(world, held) == "queued"

    (again,) = world.claim(world.worker())
    assert (again.losses, again.attempt) == (0, 1)


def test_at_most_once_means_no_second_run(world: World) -> None:
    held = world.running(fields={"fq_mode": "at_most_once"})

    assert crash(world, held) == "failed"
    assert world.watch(held.job).reason == "lost"


def test_at_most_once_allows_a_second_claim_before_the_start(world: World) -> None:
    held = claimed(world, fields={"fq_mode": "at_most_once"})  # type: ignore[arg-type]

    assert crash(world, held) == "queued"
    assert [again.job for again in world.claim(world.worker())] == [held.job]


def test_a_crash_of_a_cancelled_job_ends_it(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert crash(world, held) == "cancelled"
    assert world.resent == "cancelled"


# -- giving back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1])
def test_a_released_job_goes_to_the_front_uncounted(world: World, start: int) -> None:
    first, second = world.submit(), world.submit()
    (held,) = world.claim(world.worker(), start=start)
    assert world.run(world.t.release(held.job, held.fence)) == "ok"
    assert world.resent == "ok"

    assert world.list("queue") == [first, second]
    assert world.job(first).get("fq_attempts", "0") == "0"
    (again,) = world.claim(world.worker())
    assert (again.job, again.fence, again.attempt, again.losses) == (first, 2, 1, 0)
    assert world.run(world.t.release(held.job, held.fence)) == "stale"


def test_a_released_job_whose_caller_cancelled_it_ends(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.run(world.t.release(held.job, held.fence)) == "cancelled"
    assert world.resent == "cancelled"


# -- cancel races ------------------------------------------------------------------------------------


def test_cancel_reaches_the_worker(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    assert world.run(world.t.cancel(held.job)) == "requested"

    assert world.list("bell", worker) == [f"cancel:{held.job}"] * 2  # sent twice
    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)]))
    assert renewed.jobs == ("cancel",)
    assert world.state(held.job) == JobState.RUNNING


def test_complete_wins_over_a_cancel_that_comes_too_late(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.finish(held) == "ok"
    assert world.run(world.t.cancel(held.job)) == "finished"
    assert world.state(held.job) == JobState.FINISHED


@pytest.mark.parametrize("delay_ms", [0, 3000])
def test_cancel_wins_over_a_retry(world: World, delay_ms: int) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.finish(held, "retry", delay_ms=delay_ms) == "ok"
    assert world.state(held.job) == JobState.CANCELLED


def test_a_cancel_between_two_runs_ends_the_job(world: World) -> None:
    held = world.running()
    world.finish(held, "retry", delay_ms=3000)

    assert world.run(world.t.cancel(held.job)) == "cancelled"
    world.pass_ms(3000)
    assert world.reap().promoted == 0


def test_a_cancel_asked_for_is_not_carried_into_the_next_generation(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))
    world.finish(held, "cancelled")
    world.run(world.t.requeue(held.job))
    (again,) = world.claim(world.worker(), start=0)

    assert world.run(world.t.start(again.job, again.fence)) == "ok"


# -- output ------------------------------------------------------------------------------------------


def test_output_is_kept_for_a_while(world: World) -> None:
    world.run(world.t.log("embed-1", b"first\n", keep_s=100), again=False)
    world.run(world.t.log("embed-1", b"\xff second\n", keep_s=100), again=False)

    rows = world.redis.xrange(world.keys.of("logs", "embed-1"))
    assert [fields[b"text"] for _, fields in rows] == [b"first\n", b"\xff second\n"]
    assert 0 < world.redis.ttl(world.keys.of("logs", "embed-1")) <= 100
