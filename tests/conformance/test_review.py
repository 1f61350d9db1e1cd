"""What a hostile review found: ttl, keys, order, bounds, and jobs that come with the ring of a bell."""

from __future__ import annotations

import msgpack

from flashq.model.lifecycle import JobState
from tests.conformance.world import EP, World

DAY_MS = 86_400_000


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
