"""Jobs that somebody scribbled in: what makes no sense is set aside, and stops no other job, no worker, no reaper."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.broker import Broker
from flashq.store.records import Settlement
from flashq.store.scripts import library
from tests.conformance.world import EP, LEASE_MS, LUA_CLOCK, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashq.store.command import Command
    from tests.rig import BrokerServer

NUMBERS = (
    "fq_fence fq_losses fq_max_losses fq_ttl_at fq_failure_ttl fq_attempts fq_gen fq_claimed fq_enqueued fq_retries"
    " fq_began fq_prio fq_delay"
).split()
TEXTS = (
    "fq_state fq_ep origin fq_watch worker_name fq_cancel fq_done fq_mode status fq_timed fq_call fq_rev fq_cold"
).split()
NO_NUMBERS = [b"", b"x", b"-1", b"nan", b"inf", b"1e400", b"0x10", b"9" * 40, b"1.5.0", b"\xff\x00\n"]
NO_TEXTS = [b"", b"x", b"\xff\x00\n", b"*", b"../x", b"embed--p1", b"a:b", b"k" * 10_000]
SCRIBBLES = [(name, junk) for name in NUMBERS for junk in NO_NUMBERS]
SCRIBBLES += [(name, junk) for name in TEXTS for junk in NO_TEXTS]
STATES = ("queued", "scheduled", "running", "failed")


@pytest.fixture(scope="module")
def world(server_named: Callable[[str], BrokerServer]) -> Iterator[World]:
    """One world for all: what is scribbled here is swept away each time."""
    with closing(Broker(server_named("valkey").url, scripts=library(LUA_CLOCK))) as broker:
        broker.execute("FLUSHALL")
        with closing(World(broker)) as made:
            made.register()
            yield made


@pytest.fixture(scope="module")
def jobs(world: World) -> dict[str, tuple[str, dict[bytes, bytes]]]:
    """A job of each state: its id, and its hash as the scripts left it."""
    running, failed = world.running(ttl_ms=600_000), world.running()
    world.finish(failed, "failed")
    ids = {
        "running": running.job,
        "failed": failed.job,
        "queued": world.submit(priority=2, ttl_ms=600_000),
        "scheduled": world.submit(delay_ms=3000),
    }
    return {state: (job, world.redis.hgetall(world.keys.of("job", job))) for state, job in ids.items()}


def commands(world: World, jobs: dict[str, tuple[str, dict[bytes, bytes]]]) -> list[Command[Any]]:
    """Everything that looks at jobs, in an order in which all of them are still there."""
    t, ids = world.t, [job for job, _ in jobs.values()]
    running = jobs["running"][0]
    each = [
        command(job)
        for job in ids
        for command in (lambda j: t.watch([j], "rq:fq:push:c"), t.cancel, t.requeue)
    ]
    return [
        t.observe(EP),
        t.recover(EP, "w", []),
        t.renew(EP, "w", lease_ms=LEASE_MS, jobs=[(running, 1)]),
        t.reap(EP, lease_ms=LEASE_MS, pause_ms=0),
        t.fail_waiting(EP, "r2", "it does not load"),
        *each,
        t.release(running, 1),
        t.crash(running, 1, "killed", b"", 60),
        t.leave(EP, "w", "left"),
        t.purge(EP),
        *(t.delete(job) for job in ids),
        *(t.submit(EP, job, revision="r1", call=b"call") for job in ids),
    ]


def scribble(world: World, jobs: dict[str, tuple[str, dict[bytes, bytes]]], name: str, junk: bytes) -> None:
    """The same four jobs, where they belong, each with junk in one field; and a good one behind them."""
    of, pipe = world.keys.of, world.redis.pipeline(transaction=False)
    for state, (job, fields) in jobs.items():
        pipe.delete(of("job", job))
        pipe.hset(of("job", job), mapping={**fields, name.encode(): junk})
        pipe.rpush(of("queue", EP), job)  # CLAIM meets all of them
        pipe.zadd(of("ttls", EP), {job: world.now_ms - 1})
        if state == "running":
            pipe.zadd(of("leases", EP), {job: world.now_ms - 1})
            pipe.zadd(of("wip", EP), {f"{job}:1": "inf"})
        if state == "scheduled":
            pipe.zadd(of("scheduled", EP), {job: world.now_ms / 1000 - 1})
        if state == "failed":
            pipe.zadd(of("failed", EP), {job: world.now_ms / 1000 + 60})
    pipe.execute()


def sweep(world: World) -> None:
    world.redis.flushdb()
    world.pass_ms(6000)
    world.broker.run(
        world.t.register(
            EP,
            revision="r1",
            environment="env-1",
            resources="res-1",
            spec="{}",
            scaling="{}",
            program="p",
            record=b"r",
        )
    )
    world.broker.run(world.t.join(EP, "w", lease_ms=LEASE_MS, booked=False, fields={}))


@pytest.mark.requires("valkey")
@pytest.mark.parametrize("name", [*NUMBERS, *TEXTS])
def test_what_makes_no_sense_stops_nothing(
    world: World, jobs: dict[str, tuple[str, dict[bytes, bytes]]], name: str
) -> None:
    for junk in [junk for field, junk in SCRIBBLES if field == name]:
        # Given jobs in which somebody scribbled, in front of a good one
        sweep(world)
        scribble(world, jobs, name, junk)
        good = f"{EP}-good"
        assert world.broker.run(world.t.submit(EP, good, revision="r1", call=b"call")).verdict == "ok"

        # If a worker claims, expect the good one among what it gets, and to be finished
        claim = world.t.claim(EP, "w", "n", count=9, lease_ms=LEASE_MS, start=9, holding=0, room=9)
        claimed = {held.job: held for held in world.broker.run(claim).jobs}
        assert good in claimed, f"{name}={junk!r}"
        done = Settlement(good, claimed[good].fence, "finished", outcome=b"outcome")
        assert world.broker.run(world.t.finish(done)) == "ok"

        # If everything else that looks at jobs does so, expect each to be answered
        scribble(world, jobs, name, junk)
        for command in commands(world, jobs):
            world.broker.run(command)
        assert world.state(good) == JobState.FINISHED


@pytest.mark.requires("valkey")
@pytest.mark.parametrize("forged", [b"embed-\xff\xfe", b"embed-\n", b"", b"*", b"../../x", b"a:b"])
def test_an_id_that_is_none_is_set_aside(
    world: World, jobs: dict[str, tuple[str, dict[bytes, bytes]]], forged: bytes
) -> None:
    """Given the hash of a real job under an id that RQ would refuse, expect it parked, and the next one claimed."""
    sweep(world)
    key = world.keys.of("job", "").encode() + forged
    world.redis.hset(key, mapping=jobs["queued"][1])
    world.redis.rpush(world.keys.of("queue", EP), forged)
    good = f"{EP}-good"
    world.broker.run(world.t.submit(EP, good, revision="r1", call=b"call"))

    claim = world.t.claim(EP, "w", "n", count=9, lease_ms=LEASE_MS, start=9, holding=0, room=9)
    assert [held.job for held in world.broker.run(claim).jobs] == [good]
    assert world.redis.lrange(world.keys.of("parked", EP), 0, -1) == [forged]
