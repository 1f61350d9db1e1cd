"""REGISTER, SUBMIT and what a caller can do about a job that waits."""

from __future__ import annotations

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.keys import queue_name
from flashq.store.transitions import RQ_DATA
from tests.conformance.world import EP, START_MS, World

# -- registering -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reused"),
        ({"scaling": '{"workers_max": 3}'}, "scaled"),
        ({"spec": '{"name": "embed"}'}, "scaled"),
        ({"env_tag": "t2", "env": b"sealed"}, "scaled"),
        ({"revision": "r2"}, "code"),
        ({"environment": "env-2"}, "replaced"),
        ({"resources": "res-2"}, "replaced"),
        ({"resources": "res-2", "revision": "r2"}, "replaced"),
    ],
)
def test_registering_again_says_what_differs(world: World, changes: dict[str, str], verdict: str) -> None:
    answer = world.register(**changes)

    assert answer.verdict == verdict
    assert answer.version == (1 if verdict == "reused" else 2)
    assert world.resent.verdict == "reused"
    assert world.hash("endpoint", EP)["revision"] == changes.get("revision", "r1")


def test_a_new_endpoint_is_created(world: World) -> None:
    answer = world.register("other")

    assert (answer.verdict, answer.version, answer.previous_program) == ("created", 1, "")
    assert world.redis.smembers(world.keys.of("endpoints")) == {b"embed", b"other"}
    assert world.keys.of("queue", "other").encode() in world.redis.smembers(world.keys.of("queues"))


def test_the_epoch_is_of_the_broker(world: World) -> None:
    assert world.register("other").epoch == world.register("third").epoch


def test_registration_is_compare_and_set(world: World) -> None:
    world.register(revision="r2", program="program-2", expected_version=1)
    late = world.register(revision="r3", expected_version=1)

    assert (late.verdict, late.version, late.previous_program) == ("moved", 2, "program-2")
    assert world.hash("endpoint", EP)["revision"] == "r2"


def test_the_first_bytes_of_a_revision_stay(world: World) -> None:
    world.register(record=b"other bytes of the same revision")

    assert world.redis.get(world.keys.of("revision", EP, "r1")) == b"record"


def test_a_revision_that_is_no_longer_current_stays_for_a_week(world: World) -> None:
    world.register(revision="r2")
    old, new = world.keys.of("revision", EP, "r1"), world.keys.of("revision", EP, "r2")
    assert 6 * 86400 < world.redis.ttl(old) <= 7 * 86400
    assert world.redis.ttl(new) == -1

    world.register(revision="r1")
    assert world.redis.ttl(old) == -1
    assert world.redis.ttl(new) > 0


def test_conditions_are_recorded_and_removed(world: World) -> None:
    assert world.run(world.t.set_condition(EP, "condition", '{"state": "throttled"}', "no GPU")) == 1
    assert world.hash("endpoint", EP)["condition"] == '{"state": "throttled"}'
    assert world.run(world.t.set_condition(EP, "condition", "", "")) == 1
    assert "condition" not in world.hash("endpoint", EP)
    assert world.run(world.t.set_condition("nobody", "condition", "{}", "")) == 0
    assert world.events()[-1] == ("endpoint-condition", EP)


def test_undeploy_forgets_an_idle_endpoint(world: World) -> None:
    world.worker()
    world.claim(next(iter(world.scores("endpoint_workers"))))

    assert world.run(world.t.undeploy(EP)) == "ok"
    assert world.resent == "unknown"
    assert world.hash("endpoint", EP) == {}
    assert world.redis.smembers(world.keys.of("endpoints")) == set()
    assert world.submit_as("embed-x").verdict == "unregistered"


@pytest.mark.parametrize("options", [{}, {"priority": 3}, {"delay_ms": 1000}, {"priority": 3, "delay_ms": 1000}])
def test_undeploy_refuses_while_jobs_wait(world: World, options: dict[str, int]) -> None:
    world.submit(**options)

    assert world.run(world.t.undeploy(EP)) == "busy"


def test_undeploy_refuses_while_jobs_run(world: World) -> None:
    world.running()

    assert world.run(world.t.undeploy(EP)) == "busy"


def test_what_a_worker_does_after_undeploy_leaves_nothing(world: World) -> None:
    worker = world.worker()
    world.claim(worker)
    world.run(world.t.undeploy(EP))

    answer = world.claim_as(worker)
    world.reap()
    world.run(world.t.leave(EP, worker, "left"))
    world.reap()

    assert answer.verdict == "drain"
    left = {key for key, stored in world.snapshot().items() if not stored.expires and ":embed" in key}
    assert left <= {world.keys.of("finished", EP)}


# -- submitting --------------------------------------------------------------------------------------


def test_a_job_waits_on_its_endpoints_queue(world: World) -> None:
    answer = world.submit_as("embed-1", call=b"signed", description="embed(6 bytes)", fields={"fq_mode": "at_most_once"})

    assert (answer.verdict, answer.now_ms) == ("ok", START_MS)
    assert (world.resent.verdict, world.resent.detail) == ("dup", "queued")
    assert world.list("queue") == ["embed-1"]
    job = world.job("embed-1")
    assert job.items() >= {
        "fq_state": "queued",
        "status": "queued",
        "origin": EP,
        "description": "embed(6 bytes)",
        "fq_ep": EP,
        "fq_rev": "r1",
        "fq_call": "signed",
        "fq_enqueued": str(START_MS),
        "fq_mode": "at_most_once",
        "created_at": "2025-06-15T15:06:40.000000Z",
        "enqueued_at": "2025-06-15T15:06:40.000000Z",
    }.items()
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

    beside = queue_name(EP, revision="r1")
    assert world.job(job)["origin"] == beside
    assert world.list("queue", beside) == [job]
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
    assert world.list("bell", worker) == ["job"]
    assert world.list("wake", "") == ["1"]


def test_a_full_queue_refuses(world: World) -> None:
    world.submit(most_waiting=2)
    world.submit(most_waiting=2)
    answer = world.submit_as("embed-x", most_waiting=2)

    assert (answer.verdict, answer.detail) == ("full", "2")
    assert world.state("embed-x") == ""
    world.claim(world.worker())
    assert world.submit_as("embed-x", most_waiting=2).verdict == "ok"


# -- idempotency keys --------------------------------------------------------------------------------


def test_the_second_call_with_a_key_is_the_first_job(world: World) -> None:
    first = world.submit(idempotency_key="doc-17", stands_for="a")
    again = world.submit_as("embed-x", idempotency_key="doc-17", stands_for="a")
    other = world.submit_as("embed-y", idempotency_key="doc-17", stands_for="b")

    assert (again.verdict, again.detail) == ("hit", first)
    assert (other.verdict, other.detail) == ("conflict", first)
    assert world.list("queue") == [first]


def test_a_key_is_kept_per_endpoint_and_for_a_day(world: World) -> None:
    world.register("other")
    world.submit(idempotency_key="doc-17", stands_for="a")

    assert world.submit_as("other-x", "other", idempotency_key="doc-17", stands_for="a").verdict == "ok"
    assert 86_000 < world.redis.ttl(world.keys.idempotency(EP, "doc-17")) <= 86_400


def test_a_key_of_a_deleted_job_is_free(world: World) -> None:
    job = world.submit(idempotency_key="doc-17", stands_for="a")
    world.run(world.t.cancel(job))
    world.run(world.t.delete(job))

    assert world.submit_as("embed-x", idempotency_key="doc-17", stands_for="b").verdict == "ok"


# -- cancel, delete, requeue, purge ------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"priority": 2}, {"delay_ms": 5000}, {"ttl_ms": 5000}])
def test_a_waiting_job_is_cancelled_at_once(world: World, options: dict[str, int]) -> None:
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
    world.run(world.t.log(job, "output"), again=False)
    world.finish(held)

    assert world.run(world.t.delete(job)) == "ok"
    assert world.resent == "unknown"
    assert not [key for key in world.snapshot() if job in key]


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_a_requeued_job_begins_anew(world: World, state: str) -> None:
    held = world.running(fields={"fq_max_losses": 2}, priority=3)
    world.finish(held, state, reason="exception", text="ValueError: no", keep_s=60)

    assert world.run(world.t.requeue(held.job)) == "ok"
    job = world.job(held.job)
    assert job.items() >= {"fq_gen": "1", "fq_attempts": "0", "fq_max_losses": "2", "fq_call": "call"}.items()
    assert not {"fq_outcome", "fq_reason", "fq_error", "fq_losses", "fq_retries", "ended_at"} & job.keys()
    (again,) = world.claim(world.worker())
    assert (again.job, again.fence, again.generation, again.attempt) == (held.job, 2, 1, 1)
    assert world.finish(held) == "stale"


def test_a_finished_or_waiting_job_cannot_be_requeued(world: World) -> None:
    held = world.running()
    assert world.run(world.t.requeue(held.job)) == "running"
    world.finish(held)
    assert world.run(world.t.requeue(held.job)) == "finished"
    assert world.run(world.t.requeue("embed-x")) == "unknown"


def test_purge_cancels_what_waits_and_nothing_else(world: World) -> None:
    running = world.running()
    waiting = [world.submit(), world.submit(priority=4), world.submit(delay_ms=9000), world.submit(ttl_ms=9000)]

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


@pytest.mark.parametrize("start", [0, 1])
def test_a_job_that_was_given_back_unbegun_still_expires(world: World, start: int) -> None:
    job = world.submit(ttl_ms=2000)
    behind = world.submit(ttl_ms=2000, own_ttl=False)
    (held,) = world.claim(world.worker(), start=start)
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

    assert world.list("queue") == [held.job]
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
    assert world.list("bell", worker) == ["job"]
    assert [held.job for held in world.claim(worker)] == [job]


def test_delayed_jobs_come_in_the_order_of_their_times(world: World) -> None:
    late, soon = world.submit(delay_ms=2000), world.submit(delay_ms=1000)
    world.pass_ms(2000)
    world.reap()

    assert world.list("queue") == [soon, late]


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
        assert parts == [held.job.encode(), b"finished", b"1", b"", b"1", b"signed\nbytes\x00"]
        assert listener.get_message(timeout=0) is None
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
    assert told["data"].split(b"\n") == [held.job.encode(), b"finished", b"1", b"", b"0", b""]
    assert world.watch(held.job).outcome == outcome
    listener.close()


def test_watch_says_how_jobs_stand(world: World) -> None:
    waiting, held = world.submit(priority=-1), world.running()
    world.finish(held, "failed", reason="exception", text="ValueError: no", outcome=b"o")

    rows = world.run(world.t.watch([waiting, "embed-x", held.job]))
    assert [row.state for row in rows] == [JobState.QUEUED, None, JobState.FAILED]
    last = rows[2]
    assert (last.fence, last.reason, last.text, last.outcome) == (1, "exception", "ValueError: no", b"o")
