"""SUBMIT, idempotency keys, and who is told how a job ends (WATCH)."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.keys import queue_name
from flashq.store.transitions import RQ_DATA
from tests.conformance.world import EP, START_MS, World, holds

# -- submitting --------------------------------------------------------------------------------------


def test_a_job_waits_on_its_endpoints_queue(world: World) -> None:
    answer = world.submit_as("embed-1", call=b"signed", description="embed(6 bytes)", at_most_once=True)

    assert (answer.verdict, answer.now_ms) == ("ok", START_MS)
    assert (world.resent.verdict, world.resent.detail) == ("dup", "queued")
    assert world.listed("queue") == ["embed-1"]
    job = world.job("embed-1")
    assert holds(
        job,
        fq_state="queued",
        status="queued",
        origin=EP,
        description="embed(6 bytes)",
        fq_ep=EP,
        fq_rev="r1",
        fq_call="signed",
        fq_enqueued=str(START_MS),
        fq_mode="at_most_once",
        created_at="2025-06-15T15:06:40.000000Z",
        enqueued_at="2025-06-15T15:06:40.000000Z",
    )
    assert world.redis.hget(world.keys.of("job", "embed-1"), "data") == RQ_DATA


@pytest.mark.parametrize(
    ("now_ms", "said"),
    [
        (951_782_399_999, "2000-02-28T23:59:59.999000Z"),
        (951_868_799_000, "2000-02-29T23:59:59.000000Z"),
        (1_735_689_599_001, "2024-12-31T23:59:59.001000Z"),
        (1_735_689_600_000, "2025-01-01T00:00:00.000000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000000Z"),
    ],
)
def test_times_are_written_as_rq_writes_them(world: World, now_ms: int, said: str) -> None:
    world.at(now_ms)
    job = world.submit()

    assert world.job(job)["created_at"] == said


def test_without_its_endpoint_nothing_is_submitted(world: World) -> None:
    assert world.submit_as("other-1", "other").verdict == "unregistered"
    assert world.submit_as("embed-1", revision="r9").verdict == "unregistered"
    assert world.job("embed-1") == {}


def test_a_job_of_an_earlier_revision_waits_beside(world: World) -> None:
    world.register(revision="r2")
    job = world.submit(revision="r1")

    beside = queue_name(EP, older=True)
    assert world.job(job)["origin"] == beside
    assert world.listed("queue", beside) == [job]
    assert [held.revision for held in world.claim(world.worker())] == ["r1"]


def test_higher_priorities_go_first(world: World) -> None:
    low, plain, high = world.submit(priority=-2), world.submit(), world.submit(priority=5)

    assert [held.job for held in world.claim(world.worker(), count=3)] == [high, plain, low]


def test_cold_where_no_worker_is_idle(world: World) -> None:
    cold = world.submit_as("embed-1").detail
    worker = world.worker()
    world.claim(worker, count=2)  # one job, with room for another: it is idle
    warm = world.submit_as("embed-2").detail

    assert (cold, warm) == ("1", "0")
    assert world.job("embed-1").get("fq_cold") == "1"
    assert "fq_cold" not in world.job("embed-2")
    assert world.listed("bell", worker) == ["job"]
    assert world.listed("wake", "") == ["1"]


def test_a_full_queue_refuses(world: World) -> None:
    world.submit(most_waiting=2)
    world.submit(most_waiting=2)
    answer = world.submit_as("embed-x", most_waiting=2)

    assert (answer.verdict, answer.detail) == ("full", "2")
    assert world.state("embed-x") == ""
    world.claim(world.worker())
    assert world.submit_as("embed-x", most_waiting=2).verdict == "ok"


def test_the_bound_counts_everything_that_waits_and_nothing_that_runs(world: World) -> None:
    """Row 25."""
    world.running()
    different: tuple[dict[str, Any], ...] = (
        {"priority": 5},
        {"delay_ms": 60_000},
        {},
        {"priority": -3, "delay_ms": 1000},
    )
    for terms in different:
        world.submit(most_waiting=4, **terms)
    assert world.submit_as("embed-x", most_waiting=4, priority=9).detail == "4"

    world.register("other")
    assert world.submit_as("other-1", "other", most_waiting=4).verdict == "ok"
    assert world.submit_as("embed-y", most_waiting=0).verdict == "ok"


def test_what_comes_back_is_not_refused_by_the_bound(world: World) -> None:
    held = world.running(most_waiting=1)
    world.submit(most_waiting=1)

    assert world.finish(held, "retry") == "ok"
    assert len(world.listed("queue")) == 2


# -- idempotency keys --------------------------------------------------------------------------------


def test_the_second_call_with_a_key_is_the_first_job(world: World) -> None:
    first = world.submit(idempotency_key="doc-17", stands_for=("t", "a"))
    again = world.submit_as("embed-x", idempotency_key="doc-17", stands_for=("t", "a"))
    other = world.submit_as("embed-y", idempotency_key="doc-17", stands_for=("t", "b"))

    assert (again.verdict, again.detail) == ("hit", first)
    assert (other.verdict, other.detail) == ("conflict", first)
    assert world.listed("queue") == [first]


def test_a_key_is_kept_per_endpoint_and_for_a_day(world: World) -> None:
    world.register("other")
    world.submit(idempotency_key="doc-17", stands_for=("t", "a"))

    assert (
        world.submit_as("other-x", "other", idempotency_key="doc-17", stands_for=("t", "a")).verdict == "ok"
    )
    assert 86_000 < world.redis.ttl(world.keys.idempotency(EP, "doc-17")) <= 86_400


KEYED: dict[str, Any] = {"idempotency_key": "doc-17", "stands_for": ("t", "a")}


def test_another_target_or_payload_is_a_conflict_where_both_can_be_compared(world: World) -> None:
    first = world.submit(idempotency_key="doc-17", stands_for=("t", "a"))
    given = [("t", ""), ("t", "b"), ("u", "a"), ("u", "")]
    said = [world.submit_as("embed-x", idempotency_key="doc-17", stands_for=other) for other in given]

    assert [answer.verdict for answer in said] == ["hit", "conflict", "conflict", "conflict"]
    assert {answer.detail for answer in said} == {first}


@pytest.mark.parametrize("keep", ["waiting", "claimed", "running", "finished"])
def test_a_key_stands_for_a_job_that_waits_runs_or_has_completed(world: World, keep: str) -> None:
    job = world.submit(**KEYED)
    if keep != "waiting":
        (held,) = world.claim(world.worker(), start=int(keep != "claimed"))
        if keep == "finished":
            world.finish(held)

    answer = world.submit_as("embed-x", **KEYED)
    assert (answer.verdict, answer.detail) == ("hit", job)


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_a_key_is_free_once_its_job_ended_without_a_value(world: World, state: str) -> None:
    held = world.running(**KEYED)
    world.finish(held, state)

    second = world.submit(**KEYED | {"stands_for": ("t", "b")})
    assert world.submit_as("embed-x", **KEYED).detail == second
    world.run(world.t.requeue(held.job))  # the first one again, by hand: it takes nothing back
    assert world.submit_as("embed-x", **KEYED).detail == second


def test_a_key_of_a_job_that_may_begin_only_once_stays_with_it_once_it_has(world: World) -> None:
    never_begun = world.submit(at_most_once=True, **KEYED)
    world.run(world.t.cancel(never_begun))
    held = world.running(at_most_once=True, **KEYED)
    world.run(world.t.crash(held.job, held.fence, "killed", b"", 60))

    assert world.state(held.job) == JobState.FAILED
    assert world.submit_as("embed-x", **KEYED).detail == held.job


def test_a_key_outlives_the_result_so_that_nothing_runs_twice(world: World) -> None:
    """Row 24."""
    held = world.running(**KEYED)
    world.finish(held, keep_s=60)
    with world.tampering() as redis:  # the hash expires, which the test's own clock cannot make it do
        redis.delete(world.keys.of("job", held.job), world.keys.of("results", held.job))
    answer = world.submit_as("embed-x", **KEYED)
    other = world.submit_as("embed-x", idempotency_key="doc-17", stands_for=("t", "b"))

    assert (answer.verdict, answer.detail) == ("spent", held.job)
    assert (other.verdict, other.detail) == ("conflict", held.job)
    assert world.state("embed-x") == ""
    assert 0 < world.redis.ttl(world.keys.idempotency(EP, "doc-17")) <= 86_400


@pytest.mark.parametrize("how", ["cancelled", "finished", "with a tool of RQ"])
def test_a_key_of_a_deleted_job_is_free(world: World, how: str) -> None:
    if how == "finished":
        held = world.running(**KEYED)
        job = held.job
        world.finish(held)
    else:
        job = world.submit(**KEYED)
        world.run(world.t.cancel(job))
    if how == "with a tool of RQ":
        with world.tampering() as redis:
            redis.delete(world.keys.of("job", job))
            redis.zrem(world.keys.of("canceled", EP), job)
    else:
        world.run(world.t.delete(job))

    assert world.submit_as("embed-x", idempotency_key="doc-17", stands_for=("t", "b")).verdict == "ok"


# -- cold or warm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("delay_ms", [0, 5000])
def test_cold_is_told_with_the_end(world: World, idle: bool, delay_ms: int) -> None:
    worker = world.worker()
    if idle:
        world.claim(worker)
    answer = world.submit_as("embed-1", delay_ms=delay_ms)
    assert answer.detail == ("" if delay_ms else str(int(not idle)))
    assert world.watch("embed-1").cold is (None if delay_ms or idle else True)
    world.pass_ms(delay_ms)
    world.reap()
    (held,) = world.claim(worker)
    world.finish(held)

    assert world.watch("embed-1").cold is not idle


def test_a_retry_does_not_change_what_the_first_run_found(world: World) -> None:
    worker = world.worker()
    world.submit()
    (held,) = world.claim(worker)
    world.finish(held, "retry", delay_ms=3000)
    world.claim(worker)  # nothing: it is idle now
    world.pass_ms(3000)
    world.reap()

    assert world.watch(held.job).cold is True


# -- watching ----------------------------------------------------------------------------------------


def test_watchers_are_told(world: World) -> None:
    channels = [world.keys.of("push", name) for name in ("a", "b")]
    listeners = [world.redis.pubsub(ignore_subscribe_messages=True) for _ in channels]
    for listener, channel in zip(listeners, channels, strict=True):
        listener.subscribe(channel)
        listener.get_message(timeout=1)
    held = world.running(channel=channels[0])
    assert world.watch(held.job, channels[1]).state is JobState.RUNNING
    world.finish(held, outcome=b"signed\nbytes\x00")

    for listener in listeners:
        told = listener.get_message(timeout=5)
        assert told is not None
        parts = told["data"].split(b"\n", 5)
        assert parts == [held.job.encode(), b"finished", b"1", b"", b"1c0", b"signed\nbytes\x00"]
        assert listener.get_message(timeout=0) is None
        listener.close()


def test_the_news_says_which_generation_has_ended(world: World) -> None:
    channel = world.keys.of("push", "a")
    listener = world.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(channel)
    listener.get_message(timeout=1)
    held = world.running(channel=channel)
    for generation in (b"0", b"1", b"2"):
        world.finish(held, "failed", reason="exception", outcome=b"o")
        told = listener.get_message(timeout=5)
        assert told is not None
        assert told["data"].split(b"\n")[4][-1:] == generation
        world.run(world.t.requeue(held.job))
        (held,) = world.claim(world.worker())
    listener.close()


def test_a_large_outcome_does_not_travel_with_the_news(world: World) -> None:
    channel = world.keys.of("push", "a")
    listener = world.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(channel)
    listener.get_message(timeout=1)
    held = world.running(channel=channel)
    outcome = b"x" * 40_000
    world.finish(held, outcome=outcome)

    told = listener.get_message(timeout=5)
    assert told is not None
    assert told["data"].split(b"\n") == [held.job.encode(), b"finished", b"1", b"", b"0c0", b""]
    assert world.watch(held.job).outcome == outcome
    listener.close()


def test_watch_says_how_jobs_stand(world: World) -> None:
    waiting, held = world.submit(priority=-1), world.running()
    world.finish(held, "failed", reason="exception", text="ValueError: no", outcome=b"o")

    rows = world.run(world.t.watch([waiting, "embed-x", held.job]))
    assert [row.state for row in rows] == [JobState.QUEUED, None, JobState.FAILED]
    last = rows[2]
    assert (last.fence, last.reason, last.text, last.outcome) == (1, "exception", "ValueError: no", b"o")
