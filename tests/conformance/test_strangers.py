"""What strangers put on our queues, and what stock tools of RQ did to jobs of ours."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.lifecycle import JobState
from tests.conformance import snapshot
from tests.conformance.world import EP, LEASE_MS, World, holds


def stock_sets(world: World, job: str, status: str, registry: str = "") -> None:
    """What a stock tool does to a job of ours: off its queue, another status, into a registry."""
    origin = world.job(job)["origin"]
    world.redis.lrem(world.keys.of("queue", origin), 0, job)
    world.redis.hset(world.keys.of("job", job), "status", status)
    if registry:
        world.redis.zadd(world.keys.of(registry, origin), {job: world.now_ms / 1000 + 31_536_000})


# -- strangers ---------------------------------------------------------------------------------------


@pytest.fixture
def strange(world: World) -> str:
    """A stock job that somebody enqueued onto our queue."""
    with world.tampering():
        world.redis.hset(
            world.keys.of("job", "stock-1"), mapping={"status": "queued", "origin": EP, "data": b"x"}
        )
        world.redis.rpush(world.keys.of("queue", EP), "stock-1")
    return "stock-1"


def test_a_stock_job_is_parked(world: World, strange: str) -> None:
    ours = world.submit()

    assert [held.job for held in world.claim(world.worker())] == [ours]
    assert world.listed("parked") == [strange]
    assert world.hash("job", strange)["status"] == "queued"
    assert ("parked", strange) in world.events()


def test_a_purge_parks_it_too(world: World, strange: str) -> None:
    world.submit()

    assert world.run(world.t.purge(EP)) == 1
    assert world.listed("parked") == [strange]


def test_a_stock_job_in_front_does_not_keep_ours_from_expiring(world: World, strange: str) -> None:
    job = world.submit(ttl_ms=1000, own_ttl=False)
    world.pass_ms(1000)
    world.reap()

    assert world.state(job) == JobState.TIMED_OUT
    assert world.listed("queue") == [strange]


def test_a_job_of_another_endpoint_is_parked(world: World) -> None:
    world.register("other")
    job = world.submit("other")
    with world.tampering():
        world.redis.rpush(world.keys.of("queue", EP), job)
        assert world.claim(world.worker()) == []

    assert world.listed("parked") == [job]
    assert [held.job for held in world.claim(world.worker("other"), "other")] == [job]


def test_ids_of_nothing_are_dropped(world: World) -> None:
    with world.tampering():
        world.redis.rpush(world.keys.of("queue", EP), "embed-deleted", "", "../x y", b"\xff\x00")
        job = world.submit()

    assert [held.job for held in world.claim(world.worker())] == [job]
    assert world.listed("parked") == []


def test_a_job_key_of_another_type_is_parked(world: World) -> None:
    with world.tampering():
        world.redis.set(world.keys.of("job", "embed-string"), "no hash", ex=100)
        world.redis.rpush(world.keys.of("queue", EP), "embed-string")
        world.claim(world.worker())

    assert world.listed("parked") == ["embed-string"]
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

    assert world.listed("queue") == [job]


def test_what_a_stray_worker_began_before_it_died_is_queued_again(world: World) -> None:
    job = world.submit()
    with world.tampering() as redis:
        stock_sets(world, job, "started")
        redis.zadd(world.keys.of("wip", EP), {f"{job}:execution": world.now_ms / 1000 + 60})
        assert world.reap().adopted == 0
        world.pass_ms(65_000)
        assert world.reap().adopted == 1

    assert world.listed("queue") == [job]


@pytest.mark.parametrize("how", ["failed", "popped", "begun"])
def test_what_a_stray_worker_with_a_scheduler_touched_is_queued_again(world: World, how: str) -> None:
    job = world.submit(delay_ms=1000)
    queue = world.keys.of("queue", EP)
    world.pass_ms(1000)
    with world.tampering() as redis:
        redis.zrem(world.keys.of("scheduled", EP), job)
        if how == "failed":
            stock_sets(world, job, "failed", "failed")
        elif how == "popped":
            stock_sets(world, job, "queued")
            redis.rpush(f"{queue}:intermediate", job)
        else:
            stock_sets(world, job, "started")
            redis.zadd(world.keys.of("wip", EP), {f"{job}:execution": world.now_ms / 1000 - 1})
        assert world.reap().adopted == 1

    assert [held.job for held in world.claim(world.worker())] == [job]


def test_a_clock_set_back_does_not_stop_the_taking_back(world: World) -> None:
    job = world.submit()
    world.reap()
    world.pass_ms(-3_600_000)
    with world.tampering():
        stock_sets(world, job, "failed", "failed")
        world.reap(again=False)
        world.pass_ms(5000)
        world.reap(again=False)

    assert world.listed("queue") == [job]


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
        assert world.run(
            world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)])
        ).jobs == ("cancel",)
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
    assert holds(world.job(held.job), fq_state="finished", status="finished")


def test_a_purge_puts_right_what_a_stock_tool_requeued(world: World) -> None:
    held = world.running()
    world.finish(held, "failed", reason="exception")
    with world.tampering() as redis:
        stock_sets(world, held.job, "queued")
        redis.zrem(world.keys.of("failed", EP), held.job)
        redis.rpush(world.keys.of("queue", EP), held.job)
        world.run(world.t.purge(EP))

    assert holds(world.job(held.job), fq_state="cancelled", fq_reason="purged", fq_gen="1")


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
        world.pass_ms(200_000)  # past its ttl, which counts from when it might have begun
        world.silence()

    left = {snapshot.kind(key) for key, stored in world.snapshot().items() if job in str(stored.value)}
    assert left <= {"events", "worker"}
