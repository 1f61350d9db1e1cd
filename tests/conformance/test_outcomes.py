"""FINISH and ADVANCE: how a run ends, and a worker's step in one round trip."""

from __future__ import annotations

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.records import Settlement
from tests.conformance.world import EP, LEASE_MS, World, holds

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
    terms = {
        "reason": "why",
        "text": "for people",
        "outcome": b"signed\x00",
        "keep_s": 500,
        "timing": '{"a":1}',
    }
    assert world.finish(held, state, **terms) == "ok"

    origin = "embed--p2"
    job = world.job(held.job)
    assert holds(
        job,
        fq_state=state,
        status=status,
        fq_reason="why",
        fq_error="for people",
        fq_outcome="signed\x00",
        fq_timing='{"a":1}',
        fq_ended=str(world.now_ms),
        fq_done="1",
    )
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

    assert world.listed("queue") == [behind, held.job]
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


@pytest.mark.parametrize("state", ["retry", "finished"])
def test_an_outcome_that_overtakes_its_start_counts_the_attempt(world: World, state: str) -> None:
    held = world.claimed(ttl_ms=60_000)

    assert world.finish(held, state) == "ok"
    assert world.run(world.t.start(held.job, held.fence)) == "stale"
    assert world.job(held.job)["fq_attempts"] == "1"


def test_a_refused_job_fails_without_an_attempt(world: World) -> None:
    held = world.claimed()

    assert world.finish(held, "failed", reason="refused") == "ok"
    assert "fq_attempts" not in world.job(held.job)


# -- one round trip ----------------------------------------------------------------------------------


def test_a_job_refused_after_it_was_to_begin_at_once_has_no_attempt_either(world: World) -> None:
    """Row 23. A claim may count the attempt before the call could be looked at."""
    held = world.running()
    assert world.job(held.job)["fq_attempts"] == "1"
    assert world.finish(held, "failed", reason="refused") == "ok"
    assert world.job(held.job)["fq_attempts"] == "0"


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
    held = world.claimed()
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
    assert holds(world.job(held.job), fq_state="finished", fq_attempts="1")


def test_advance_says_what_is_stale(world: World) -> None:
    old, _ = world.taken_away()
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
