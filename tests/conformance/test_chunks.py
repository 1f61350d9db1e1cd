"""CHUNK and TAKE: what a job yields is kept once, in order, of the newest run alone, until a reader has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq.store.records import Claimed
    from tests.conformance.world import World


def chunk(world: World, held: Claimed, number: int, worker: str = "") -> tuple[str, int]:
    return world.run(world.t.chunk(held.job, held.fence, worker, number, b"%d" % number))


def kept(world: World, job: str) -> list[tuple[bytes, bytes]]:
    return [(entry, fields[b"chunk"]) for entry, fields in world.redis.xrange(world.keys.of("chunks", job))]


def test_chunks_are_kept_in_order_each_once(world: World) -> None:
    held = world.running()
    for number in (1, 2, 3):
        assert chunk(world, held, number) == ("ok", 0)
        assert world.resent == ("ok", 0)
    assert kept(world, held.job) == [(b"1-1", b"1"), (b"1-2", b"2"), (b"1-3", b"3")]
    assert world.redis.ttl(world.keys.of("chunks", held.job)) > 0

    # One that comes again, late, is there already
    assert chunk(world, held, 2) == ("ok", 0)
    assert len(kept(world, held.job)) == 3


def test_what_a_reader_has_is_kept_no_longer_and_its_worker_hears_of_it(world: World) -> None:
    worker = world.worker()
    held = world.running(worker)
    for number in (1, 2, 3):
        chunk(world, held, number, worker)

    assert world.run(world.t.take(held.job, held.fence, 2)) == "ok"
    assert kept(world, held.job) == [(b"1-3", b"3")]
    rings = world.redis.lrange(world.keys.of("bell", worker), 0, -1)
    assert rings == [f"taken:{held.job}:{held.fence}:2".encode()]
    assert chunk(world, held, 4, worker) == ("ok", 2)

    # A take that comes late takes nothing back
    assert world.run(world.t.take(held.job, held.fence, 1)) == "ok"
    assert chunk(world, held, 5, worker) == ("ok", 2)


def test_another_run_begins_anew_and_what_earlier_ones_say_is_stale(world: World) -> None:
    old = world.running()
    chunk(world, old, 1)
    chunk(world, old, 2)
    world.run(world.t.take(old.job, old.fence, 1))
    world.silence()
    (new,) = world.claim(world.worker())

    assert chunk(world, old, 3) == ("stale", 0)
    assert world.run(world.t.take(old.job, old.fence, 2)) == "stale"
    assert chunk(world, new, 1) == ("ok", 0)
    assert kept(world, new.job) == [(b"2-1", b"1")]


def test_who_holds_nothing_yields_nothing(world: World) -> None:
    held = world.claimed()
    assert chunk(world, held, 1, "somebody-else") == ("stale", 0)
    waiting = world.submit()
    assert world.run(world.t.chunk(waiting, 0, "", 1, b"x")) == ("stale", 0)
    assert world.run(world.t.chunk("embed-none", 1, "", 1, b"x")) == ("stale", 0)
    assert world.run(world.t.take("embed-none", 1, 1)) == "unknown"


def test_chunks_go_with_their_job(world: World) -> None:
    held = world.running()
    chunk(world, held, 1)
    world.finish(held)
    assert world.run(world.t.take(held.job, held.fence, 1)) == "ok"
    assert world.run(world.t.delete(held.job)) == "ok"
    assert not world.redis.exists(world.keys.of("chunks", held.job))


def test_what_is_run_again_keeps_nothing_of_an_earlier_run(world: World) -> None:
    # Given what a run yielded that is tried again, given back, or lost: expect no reader to be given it
    for ends in ("retry", "release", "silence"):
        held = world.running()
        chunk(world, held, 1)
        if ends == "retry":
            assert world.finish(held, "retry", reason="retry", delay_ms=60_000) == "ok"
        elif ends == "release":
            assert world.run(world.t.release(held.job, held.fence, "", begun=True)) == "ok"
        else:
            world.silence()
        assert kept(world, held.job) == [], ends
        assert chunk(world, held, 2) == ("stale", 0)
        assert world.run(world.t.cancel(held.job)) == "cancelled"

    # Given a job that failed and is requeued, expect its next generation to begin with nothing
    held = world.running()
    chunk(world, held, 1)
    world.finish(held, "failed")
    assert len(kept(world, held.job)) == 1, "what came before a failure can be read"
    assert world.run(world.t.requeue(held.job)) == "ok"
    assert kept(world, held.job) == []


def test_nobody_reads_what_was_cancelled(world: World) -> None:
    held = world.running()
    chunk(world, held, 1)
    world.finish(held, "cancelled")
    assert not world.redis.exists(world.keys.of("chunks", held.job))


def test_what_is_read_to_its_end_is_gone(world: World) -> None:
    # While the job runs the place in its stream is kept; once it has ended, and all was taken, nothing is
    held = world.running()
    chunk(world, held, 1)
    assert world.run(world.t.take(held.job, held.fence, 1)) == "ok"
    assert world.redis.exists(world.keys.of("chunks", held.job))
    chunk(world, held, 2)
    world.finish(held)
    assert world.run(world.t.take(held.job, held.fence, 2)) == "ok"
    assert not world.redis.exists(world.keys.of("chunks", held.job))
