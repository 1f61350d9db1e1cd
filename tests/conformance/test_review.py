"""What a hostile review found: ttl, keys, order, bounds, and jobs that come with the ring of a bell."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from flashq.model.lifecycle import JobState
from flashq.store.command import Command
from flashq.store.memory import MemoryBroker
from flashq.store.records import Settlement
from tests.conformance.world import CLOCK, EP, LEASE_MS, START_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.store.broker import Broker

DAY_MS = 86_400_000
MOST_MS = 10.0  # that the broker may be busy with one script


# -- ttl ---------------------------------------------------------------------------------------------


def test_a_job_that_began_does_not_expire_though_it_is_given_back(world: World) -> None:
    timed, plain = world.submit(ttl_ms=1000), world.submit(ttl_ms=1000, own_ttl=False)
    worker = world.worker()
    held = world.claim(worker, count=2, start=2)
    world.pass_ms(2000)
    for one in held:
        assert world.run(world.t.release(one.job, one.fence)) == "ok"
    world.reap()

    assert {row.job for row in world.claim(worker, count=2, start=2)} == {timed, plain}


def test_a_job_that_was_claimed_only_still_expires(world: World) -> None:
    job = world.submit(ttl_ms=1000)
    (held,) = world.claim(world.worker(), start=0)
    world.pass_ms(2000)
    world.run(world.t.release(held.job, held.fence))
    world.reap()

    assert world.state(job) == JobState.TIMED_OUT


def test_the_ttl_counts_from_when_a_delayed_job_may_begin(world: World) -> None:
    timed = world.submit(delay_ms=2 * DAY_MS, ttl_ms=DAY_MS)
    plain = world.submit(delay_ms=2 * DAY_MS, ttl_ms=DAY_MS, own_ttl=False)
    world.pass_ms(2 * DAY_MS)
    world.reap()
    assert {world.state(timed), world.state(plain)} == {JobState.QUEUED}
    world.pass_ms(DAY_MS)
    world.reap()

    assert {world.state(timed), world.state(plain)} == {JobState.TIMED_OUT}


# -- keys --------------------------------------------------------------------------------------------


def _record(key_id: str, when: int) -> bytes:
    header = msgpack.packb({"v": 1, "kid": key_id, "iat": when})
    packed: bytes = msgpack.packb([header, b"code", b"signature"])
    return packed


def test_a_record_signed_with_another_key_replaces_the_one_kept(world: World) -> None:
    revision = world.keys.of("revision", EP, "r2")
    world.register(revision="r2", key_id="old", record=_record("old", 1))
    world.register(revision="r2", key_id="old", record=_record("old", 2))
    assert world.redis.get(revision) == _record("old", 1)
    answer = world.register(revision="r2", key_id="new", record=_record("new", 3))

    assert answer.verdict == "reused"
    assert world.redis.get(revision) == _record("new", 3)
    assert ("endpoint-resigned", EP) in world.events()


# -- order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leave", "silence", "restart"])
def test_what_a_lost_worker_held_keeps_its_order(world: World, how: str) -> None:
    jobs = [world.submit() for _ in range(6)][::-1]  # submitted in the order of their ids, or against it
    with world.tampering() as redis:
        redis.delete(world.keys.of("queue", EP))
        redis.rpush(world.keys.of("queue", EP), *jobs)
    worker = world.worker()
    held = world.claim(worker, count=2, start=1)
    world.pass_ms(1)
    held += world.claim(worker, count=3, start=0)
    world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(row.job, row.fence) for row in held]))
    ends: dict[str, Callable[[], object]] = {
        "leave": lambda: world.run(world.t.leave(EP, worker, "it died")),
        "silence": world.silence,
        "restart": lambda: world.run(Command("restart", world.keys.of("endpoint", EP), ("rq:", EP), int)),
    }
    ends[how]()

    assert world.listed("queue") == jobs


def test_leaving_does_not_ring_the_one_that_leaves(world: World) -> None:
    leaver, other = world.worker(), world.worker()
    world.submit()
    world.run(world.t.claim(EP, leaver, "n", count=1, lease_ms=LEASE_MS, start=1, holding=0, room=2))
    world.pass_ms(-1)  # idle for longer than the one that leaves
    world.claim(other)
    world.pass_ms(1)
    world.run(world.t.leave(EP, leaver, "it died"))

    assert world.listed("bell", other) == ["job"]


# -- bounds ------------------------------------------------------------------------------------------


def test_many_lost_workers_and_leases_keep_each_script_short(broker: Broker | MemoryBroker) -> None:
    if isinstance(broker, MemoryBroker):
        pytest.skip("measures a server")
    workers, each = 100, 50
    redis, keys, t = broker.redis(), broker.keys, broker.transitions
    redis.set(CLOCK, START_MS)
    broker.run(
        t.register(
            EP,
            revision="r1",
            environment="env-1",
            resources="res-1",
            spec="{}",
            scaling="{}",
            program="program-1",
            record=b"record",
        )
    )
    pipe = redis.pipeline(transaction=False)
    for n in range(workers):
        broker.run(t.join(EP, f"w{n}", lease_ms=LEASE_MS, booked=False, fields={}))
        for m in range(each):
            job = f"j{n}-{m}"
            fields: dict[Any, Any] = {"fq_state": "running", "fq_ep": EP, "origin": EP, "fq_fence": 1}
            fields |= {"worker_name": f"w{n}", "fq_claimed": START_MS}
            pipe.hset(keys.of("job", job), mapping=fields)
            pipe.zadd(keys.of("leases", EP), {job: START_MS + LEASE_MS})
            pipe.zadd(keys.of("wip", EP), {f"{job}:1": float("inf")})
    pipe.execute()
    for ms in (0, 4000, 8000, 12000, LEASE_MS - 1):
        redis.set(CLOCK, START_MS + ms)
        broker.run(t.reap(EP, lease_ms=LEASE_MS, pause_ms=0))
    took = [_took_ms(broker, t.leave(EP, "w0", "it died"))]
    redis.set(CLOCK, START_MS + LEASE_MS)
    while redis.zcard(keys.of("leases", EP)):
        took.append(_took_ms(broker, t.reap(EP, lease_ms=LEASE_MS, pause_ms=0)))

    assert redis.zcard(keys.of("endpoint_workers", EP)) == 0
    assert redis.llen(keys.of("queue", EP)) == workers * each
    assert statistics.median(took) < MOST_MS


def _took_ms(broker: Broker, command: Command[Any]) -> float:
    """How much of the server's processor time a command took."""

    def used() -> float:
        cpu = broker.redis().info("cpu")
        return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])

    before = used()
    broker.run(command)
    return (used() - before) * 1000


def test_who_comes_right_after_a_reaper_has_nothing_to_do(world: World) -> None:
    reap = world.t.reap(EP, lease_ms=LEASE_MS, limit=2)
    world.run(reap)
    jobs = [world.submit(delay_ms=100) for _ in range(3)]
    world.pass_ms(499)
    assert not world.run(reap)
    assert {world.state(job) for job in jobs} == {JobState.SCHEDULED}
    world.pass_ms(1)

    first = world.run(reap, again=False)
    assert (first.promoted, first.more) == (2, True)
    world.pass_ms(19)
    another = world.run(reap, again=False)
    assert (another.promoted, another.more) == (0, False), (
        "one goes on, the others have their turn in a second"
    )
    world.pass_ms(1)
    last = world.run(reap, again=False)
    assert (last.promoted, last.more) == (1, False)
    assert not world.run(reap)


def test_a_clock_set_back_delays_no_reaper(world: World) -> None:
    reap = world.t.reap(EP, lease_ms=LEASE_MS)
    world.run(reap)
    job = world.submit(ttl_ms=10)
    world.pass_ms(-100)
    world.run(reap)
    world.pass_ms(600)
    world.run(reap)

    assert world.state(job) == JobState.TIMED_OUT


# -- what is shown of a worker -----------------------------------------------------------------------


def test_a_worker_is_shown_with_as_many_jobs_as_it_holds(world: World) -> None:
    for _ in range(4):
        world.submit()
    worker = world.worker()
    held = world.claim(worker, count=4, start=4)
    done = [Settlement(row.job, row.fence, "finished", outcome=b"outcome") for row in held[:3]]
    world.run(
        world.t.advance(
            EP, worker, "n", done=done, begin=[], count=3, lease_ms=LEASE_MS, start=3, holding=1, room=3
        )
    )

    assert world.hash("worker", worker)["fq_jobs"] == "1"


# -- whose turn it is --------------------------------------------------------------------------------


def test_among_queues_of_one_rank_the_oldest_job_goes_first(world: World) -> None:
    jobs = []
    for revision in ("r1", "r0", "r1", "r0", "r2", "r1"):
        if revision not in ("r1", "r2"):
            world.register(revision=revision)
            world.register(revision="r1")
        elif revision == "r2":
            world.register(revision="r2")
        jobs.append(world.submit(revision=revision))
        world.pass_ms(1)
    urgent = world.submit(revision="r2", priority=1)

    assert [row.job for row in world.claim(world.worker(), count=9)] == [urgent, *jobs]


def test_programs_of_older_code_share_one_queue(world: World) -> None:
    for n in range(20):
        world.register(revision=f"old-{n}")
    world.register(revision="r1")
    jobs = [world.submit(revision=f"old-{n}") for n in range(20)]

    assert len(world.scores("endpoint_queues")) == 2
    assert [row.revision for row in world.claim(world.worker(), count=99)] == [
        f"old-{n}" for n in range(len(jobs))
    ]
