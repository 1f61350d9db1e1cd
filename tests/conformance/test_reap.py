"""REAP: silence, grace, clocks that jump, what stock tools of RQ left, and what strangers put on our queues."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.lifecycle import JobState
from tests.conformance import snapshot
from tests.conformance.world import EP, LEASE_MS, START_MS, World

HOUR_MS = 3_600_000


def stock_sets(world: World, job: str, status: str, registry: str = "") -> None:
    """What a stock tool does to a job of ours: off its queue, another status, into a registry."""
    origin = world.job(job)["origin"]
    world.redis.lrem(world.keys.of("queue", origin), 0, job)
    world.redis.hset(world.keys.of("job", job), "status", status)
    if registry:
        world.redis.zadd(world.keys.of(registry, origin), {job: world.now_ms / 1000 + 31_536_000})


# -- silence -----------------------------------------------------------------------------------------


def test_a_silent_worker_loses_its_jobs_after_a_lease(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    world.reap()
    for _ in range(LEASE_MS // 1000 - 1):
        world.pass_ms(1000)
        assert not world.reap()
    world.pass_ms(1000)
    answer = world.reap()

    assert answer.lost_workers == 1
    assert world.state(held.job) == JobState.QUEUED
    assert world.job(held.job)["fq_losses"] == "1"
    assert world.scores("endpoint_workers") == {}
    assert ("worker-lost", worker) in world.events()
    assert not world.reap()


def test_a_lease_that_nobody_renews_is_recovered_though_its_worker_beats(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    for _ in range(LEASE_MS // 1000):
        world.reap()
        world.pass_ms(1000)
        world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[]))
    answer = world.reap()

    assert (answer.recovered, answer.lost_workers) == (1, 0)
    assert world.state(held.job) == JobState.QUEUED


def test_a_poison_job_ends(world: World) -> None:
    job = world.submit(fields={"fq_max_losses": 2})
    for _ in range(2):
        world.claim(world.worker())
        world.silence()

    told = world.watch(job)
    assert (told.state, told.reason, told.outcome) == (JobState.FAILED, "lost", b"")
    assert "silent for a lease; run 2 time(s)" in told.text


def test_a_cancelled_job_of_a_silent_worker_ends(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))
    world.silence()

    assert world.state(held.job) == JobState.CANCELLED


def test_at_most_once_is_not_run_again_after_a_silence(world: World) -> None:
    held = world.running(fields={"fq_mode": "at_most_once"})
    world.silence()

    assert world.state(held.job) == JobState.FAILED


def test_recovery_is_bounded(world: World) -> None:
    world.register("other")
    for _ in range(5):
        world.submit()
    worker = world.worker()
    world.claim(worker, count=5, start=5)
    for _ in range(LEASE_MS // 1000):
        world.reap()
        world.pass_ms(1000)
        world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[]))

    assert [world.reap(limit=2, again=False).recovered for _ in range(4)] == [2, 2, 1, 0]


def test_each_endpoint_is_reaped_alone(world: World) -> None:
    world.register("other")
    held = world.running()
    for _ in range(LEASE_MS // 1000 + 1):
        world.reap("other")
        world.pass_ms(1000)

    assert world.state(held.job) == JobState.RUNNING


# -- grace -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_ms", [6000, LEASE_MS, HOUR_MS])
def test_after_a_silence_of_everybody_leases_are_spared_for_a_lease(world: World, away_ms: int) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    world.reap()
    world.pass_ms(away_ms)
    answer = world.reap()
    assert (answer.recovered, answer.lost_workers) == (0, 0)

    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)]))
    assert (renewed.verdict, renewed.jobs) == ("ok", ("ok",))
    for _ in range(LEASE_MS // 1000 - 1):
        world.pass_ms(1000)
        assert not world.reap()
    assert world.finish(held) == "ok"


def test_after_the_grace_who_is_still_silent_is_lost(world: World) -> None:
    held = world.running()
    world.reap()
    world.pass_ms(HOUR_MS)
    world.silence()

    assert world.state(held.job) == JobState.QUEUED


def test_a_clock_set_back_lets_nothing_live_for_hours(world: World) -> None:
    held = world.running()
    world.reap()
    world.pass_ms(-HOUR_MS)
    world.reap()
    assert world.scores("leases") == {held.job: world.now_ms + LEASE_MS}
    assert set(world.scores("endpoint_workers").values()) == {world.now_ms + LEASE_MS}
    world.silence()

    assert world.state(held.job) == JobState.QUEUED


def test_a_clock_set_back_during_a_grace_ends_it_in_time(world: World) -> None:
    held = world.running()
    world.reap()
    world.pass_ms(HOUR_MS)
    world.reap()
    world.pass_ms(-2 * HOUR_MS)
    world.silence()

    assert world.state(held.job) == JobState.QUEUED


def test_a_clock_set_back_does_not_stop_the_taking_back(world: World) -> None:
    job = world.submit()
    world.reap()
    world.pass_ms(-HOUR_MS)
    with world.tampering():
        stock_sets(world, job, "failed", "failed")
        world.reap(again=False)
        world.pass_ms(5000)
        world.reap(again=False)

    assert world.list("queue") == [job]


def test_a_silence_does_not_cut_short_the_patience_with_a_booked_worker(world: World) -> None:
    order = world.t.order(
        EP,
        "w1",
        host="host-1",
        revision="r1",
        environment="env-1",
        most=1,
        patience_ms=120_000,
        command=b"signed",
        fields={},
    )
    world.reap()
    world.run(order)
    world.pass_ms(6000)
    world.reap()

    assert world.scores("endpoint_workers") == {"w1": START_MS + 120_000}


# -- what is no longer needed ------------------------------------------------------------------------


def test_a_sibling_queue_on_which_nothing_is_left_is_forgotten(world: World) -> None:
    held = world.running(priority=3)
    sibling = "embed--p3"
    world.reap()
    world.finish(held)
    world.pass_ms(5000)
    world.reap()
    assert sibling in world.scores("endpoint_queues")
    world.run(world.t.delete(held.job))
    world.pass_ms(5000)
    world.reap()

    assert world.scores("endpoint_queues") == {EP: 0}
    assert world.keys.of("queue", sibling).encode() not in world.redis.smembers(world.keys.of("queues"))


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_registries_forget_what_has_expired(world: World, state: str) -> None:
    held, kept = world.running(), world.running()
    world.finish(held, state, keep_s=100)
    world.finish(kept, state, keep_s=9000)
    world.reap()
    world.pass_ms(99_000)
    world.reap()
    registry = {"cancelled": "canceled"}.get(state, state)
    assert len(world.scores(registry)) == 2
    world.redis.delete(world.keys.of("job", held.job), world.keys.of("results", held.job))  # as if it had expired
    world.pass_ms(3000)
    world.reap()

    assert list(world.scores(registry)) == [kept.job]


# -- strangers ---------------------------------------------------------------------------------------


@pytest.fixture
def strange(world: World) -> str:
    """A stock job that somebody enqueued onto our queue."""
    with world.tampering():
        world.redis.hset(world.keys.of("job", "stock-1"), mapping={"status": "queued", "origin": EP, "data": b"x"})
        world.redis.rpush(world.keys.of("queue", EP), "stock-1")
    return "stock-1"


def test_a_stock_job_is_parked(world: World, strange: str) -> None:
    ours = world.submit()

    assert [held.job for held in world.claim(world.worker())] == [ours]
    assert world.list("parked") == [strange]
    assert world.hash("job", strange)["status"] == "queued"
    assert ("parked", strange) in world.events()


def test_a_purge_parks_it_too(world: World, strange: str) -> None:
    world.submit()

    assert world.run(world.t.purge(EP)) == 1
    assert world.list("parked") == [strange]


def test_a_stock_job_in_front_does_not_keep_ours_from_expiring(world: World, strange: str) -> None:
    job = world.submit(ttl_ms=1000, own_ttl=False)
    world.pass_ms(1000)
    world.reap()

    assert world.state(job) == JobState.TIMED_OUT
    assert world.list("queue") == [strange]


def test_a_job_of_another_endpoint_is_parked(world: World) -> None:
    world.register("other")
    job = world.submit("other")
    with world.tampering():
        world.redis.rpush(world.keys.of("queue", EP), job)
        assert world.claim(world.worker()) == []

    assert world.list("parked") == [job]
    assert [held.job for held in world.claim(world.worker("other"), "other")] == [job]


def test_ids_of_nothing_are_dropped(world: World) -> None:
    with world.tampering():
        world.redis.rpush(world.keys.of("queue", EP), "embed-deleted", "", "../x y", b"\xff\x00")
        job = world.submit()

    assert [held.job for held in world.claim(world.worker())] == [job]
    assert world.list("parked") == []


def test_a_job_key_of_another_type_is_parked(world: World) -> None:
    with world.tampering():
        world.redis.set(world.keys.of("job", "embed-string"), "no hash", ex=100)
        world.redis.rpush(world.keys.of("queue", EP), "embed-string")
        world.claim(world.worker())

    assert world.list("parked") == ["embed-string"]
    assert world.watch("embed-string").state is None
    assert world.run(world.t.cancel("embed-string")) == "unknown"


# -- what stock tools did to jobs of ours ------------------------------------------------------------


@pytest.mark.parametrize("priority", [0, 3])
def test_what_a_stray_worker_failed_is_queued_again(world: World, priority: int) -> None:
    job = world.submit(priority=priority)
    with world.tampering() as redis:
        stock_sets(world, job, "failed", "failed")
        redis.expire(world.keys.of("job", job), 500)
        redis.xadd(world.keys.of("results", job), {"type": 2})
        redis.hset(world.keys.of("job", job), "worker_name", "stray")
        world.claim(world.worker())
        assert world.reap().adopted == 1

    assert [held.job for held in world.claim(world.worker())] == [job]
    assert ("job-adopted", job) in world.events()


def test_what_a_stray_worker_popped_before_it_died_is_queued_again(world: World) -> None:
    job = world.submit()
    with world.tampering() as redis:
        redis.lmove(world.keys.of("queue", EP), f"{world.keys.of('queue', EP)}:intermediate", "LEFT", "RIGHT")
        assert world.reap().adopted == 1

    assert world.list("queue") == [job]


def test_what_a_stray_worker_began_before_it_died_is_queued_again(world: World) -> None:
    job = world.submit()
    with world.tampering() as redis:
        stock_sets(world, job, "started")
        redis.zadd(world.keys.of("wip", EP), {f"{job}:execution": world.now_ms / 1000 + 60})
        assert world.reap().adopted == 0
        world.pass_ms(65_000)
        assert world.reap().adopted == 1

    assert world.list("queue") == [job]


def test_taking_back_looks_every_five_seconds(world: World) -> None:
    world.reap()
    job = world.submit()
    with world.tampering():
        stock_sets(world, job, "failed", "failed")
        world.pass_ms(4999)
        assert world.reap().adopted == 0
        world.pass_ms(1)
        assert world.reap().adopted == 1


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_a_stock_cancel_of_a_waiting_job_ends_it(world: World, delay_ms: int) -> None:
    job = world.submit(delay_ms=delay_ms, ttl_ms=90_000)
    with world.tampering() as redis:
        stock_sets(world, job, "canceled", "canceled")
        redis.zrem(world.keys.of("scheduled", EP), job)
        assert world.reap().adopted == 1

    assert world.state(job) == JobState.CANCELLED


def test_a_stock_cancel_is_seen_by_whoever_waits(world: World) -> None:
    job = world.submit()
    with world.tampering():
        stock_sets(world, job, "canceled", "canceled")

        assert world.watch(job).state is JobState.CANCELLED


@pytest.mark.parametrize("how", ["release", "retry", "crash", "silence"])
def test_a_stock_cancel_of_a_running_job_is_not_forgotten(world: World, how: str) -> None:
    held = world.running()
    with world.tampering() as redis:
        redis.hset(world.keys.of("job", held.job), "status", "canceled")
        redis.zadd(world.keys.of("canceled", EP), {held.job: world.now_ms / 1000 + 500})
        worker = world.job(held.job)["worker_name"]
        assert world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)])).jobs == ("cancel",)
        ends: dict[str, Any] = {
            "release": lambda: world.run(world.t.release(held.job, held.fence)),
            "retry": lambda: world.finish(held, "retry"),
            "crash": lambda: world.run(world.t.crash(held.job, held.fence, "killed", b"", 60)),
            "silence": world.silence,
        }
        ends[how]()

    assert world.state(held.job) == JobState.CANCELLED
    assert world.claim(world.worker()) == []


def test_a_job_that_finished_though_a_stock_tool_cancelled_it_is_shown_once(world: World) -> None:
    held = world.running()
    with world.tampering() as redis:
        redis.hset(world.keys.of("job", held.job), "status", "canceled")
        redis.zadd(world.keys.of("canceled", EP), {held.job: world.now_ms / 1000 + 500})

    assert world.finish(held) == "ok"


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_a_stock_requeue_opens_the_next_generation(world: World, state: str) -> None:
    held = world.running(priority=2)
    world.finish(held, state, keep_s=600)
    world.claim(world.worker())
    with world.tampering() as redis:
        stock_sets(world, held.job, "queued")
        redis.zrem(world.keys.of({"cancelled": "canceled"}.get(state, "failed"), "embed--p2"), held.job)
        redis.rpush(world.keys.of("queue", "embed--p2"), held.job)
        (again,) = world.claim(world.worker())

    assert (again.job, again.generation, again.attempt, again.fence) == (held.job, 1, 1, 2)
    assert world.finish(again) == "ok"


def test_a_stock_requeue_of_a_finished_job_changes_nothing(world: World) -> None:
    held = world.running()
    world.finish(held)
    with world.tampering() as redis:
        redis.hset(world.keys.of("job", held.job), "status", "queued")
        redis.rpush(world.keys.of("queue", EP), held.job)
        assert world.claim(world.worker()) == []

    world.submit()  # judges them all
    assert world.job(held.job).items() >= {"fq_state": "finished", "status": "finished"}.items()


def test_a_purge_puts_right_what_a_stock_tool_requeued(world: World) -> None:
    held = world.running()
    world.finish(held, "failed", reason="exception")
    with world.tampering() as redis:
        stock_sets(world, held.job, "queued")
        redis.zrem(world.keys.of("failed", EP), held.job)
        redis.rpush(world.keys.of("queue", EP), held.job)
        world.run(world.t.purge(EP))

    assert world.job(held.job).items() >= {"fq_state": "cancelled", "fq_reason": "purged", "fq_gen": "1"}.items()


def test_what_a_stock_scheduler_promoted_is_run(world: World) -> None:
    job = world.submit(delay_ms=60_000)
    with world.tampering() as redis:
        redis.zrem(world.keys.of("scheduled", EP), job)
        redis.hset(world.keys.of("job", job), "status", "queued")
        redis.rpush(world.keys.of("queue", EP), job)
        (held,) = world.claim(world.worker())

    assert held.job == job
    assert world.finish(held) == "ok"


@pytest.mark.parametrize("state", ["queued", "scheduled", "running"])
def test_a_stock_delete_leaves_nothing(world: World, state: str) -> None:
    held = world.running() if state == "running" else None
    job = held.job if held else world.submit(delay_ms=60_000 if state == "scheduled" else 0, ttl_ms=90_000)
    with world.tampering() as redis:
        redis.delete(world.keys.of("job", job))
        redis.lrem(world.keys.of("queue", EP), 0, job)
        redis.zrem(world.keys.of("scheduled", EP), job)
        if held:
            assert world.finish(held) == "gone"
        assert world.watch(job).state is None
        world.silence()
        world.pass_ms(90_000)
        world.silence()

    left = {snapshot.kind(key) for key, stored in world.snapshot().items() if job in str(stored.value)}
    assert left <= {"events", "worker"}
