"""ORDER, JOIN, READY, RENEW, DRAIN, LEAVE of workers; BEAT and LEAVE of hosts; what OBSERVE tells of all of it."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.records import Beat
from tests.conformance.world import EP, LEASE_MS, World, holds

HOST = "host-1"


def order(world: World, worker: str, endpoint: str = EP, **changes: Any) -> str:
    terms = {
        "host": HOST,
        "revision": "r1",
        "environment": "env-1",
        "most": 2,
        "patience_ms": 60_000,
        "command": b"signed",
        "term": world.term,
        "fields": {"fq_gpus": f"GPU-{worker}"},
    }
    return world.run(world.t.order(endpoint, worker, **{**terms, **changes}))


def renew(world: World, worker: str, *jobs: tuple[str, int], **fields: str) -> Any:
    return world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=jobs, fields=fields))


# -- booked workers ----------------------------------------------------------------------------------


def test_an_ordered_worker_counts_and_its_host_is_told_once(world: World) -> None:
    assert order(world, "w1") == "ok"
    assert world.resent == "ok"

    assert world.listed("commands", HOST) == ["signed"]
    assert world.scores("endpoint_workers") == {"w1": world.now_ms + 60_000}
    assert holds(
        world.hash("worker", "w1"),
        fq_ep=EP,
        fq_state="initializing",
        fq_host=HOST,
        fq_rev="r1",
        fq_env="env-1",
        fq_gpus="GPU-w1",
        fq_ordered=str(world.now_ms),
    )


def test_no_more_are_ordered_than_the_endpoint_may_have(world: World) -> None:
    order(world, "w1")
    world.worker()

    assert order(world, "w3") == "full"
    assert order(world, "w3", most=3) == "ok"
    assert world.hash("worker", "w3")["fq_ep"] == EP


def test_none_is_ordered_for_an_unknown_endpoint(world: World) -> None:
    assert order(world, "w1", "other") == "unknown"
    assert world.listed("commands", HOST) == []


def test_a_command_to_a_host_that_never_comes_is_not_kept(world: World) -> None:
    order(world, "w1")

    assert 0 < world.redis.ttl(world.keys.of("commands", HOST)) <= 3600


def test_a_booked_worker_reports_in(world: World) -> None:
    order(world, "w1")
    ordered = world.now_ms
    world.pass_ms(700)
    answer = world.join("w1", booked=True, pid=42)

    assert (answer.verdict, answer.ordered_ms, answer.now_ms) == ("ok", ordered, world.now_ms)
    assert world.scores("endpoint_workers") == {"w1": world.now_ms + LEASE_MS}
    assert holds(world.hash("worker", "w1"), pid="42", fq_state="initializing")


def test_a_booked_worker_that_was_given_up_is_told_so(world: World) -> None:
    order(world, "w1", patience_ms=1000)
    world.reap()
    world.pass_ms(1000)
    world.reap()

    assert world.join("w1", booked=True).verdict == "gone"
    assert world.join("w2", booked=True).verdict == "gone"
    assert world.scores("endpoint_workers") == {}


def test_a_worker_started_by_hand_joins(world: World) -> None:
    answer = world.join("w1", hostname="box")

    assert (answer.verdict, answer.ordered_ms) == ("ok", 0)
    key = world.keys.of("worker", "w1")
    assert holds(
        world.hash("worker", "w1"),
        queues=EP,
        state="started",
        birth="2025-06-15T15:06:40.000000Z",
        last_heartbeat="2025-06-15T15:06:40.000000Z",
    )
    assert world.redis.smembers(world.keys.of("rq_workers")) == {key.encode()}
    assert world.redis.smembers(world.keys.of("queue_workers", EP)) == {key.encode()}
    assert 12 * 3600 < world.redis.ttl(key) <= 24 * 3600  # it outlives a clock that is set ahead
    assert world.join("w2", "other").verdict == "unknown"


def test_a_ready_worker_forgives_earlier_failures(world: World) -> None:
    world.join("w1")
    world.run(world.t.leave(EP, "w1", "no module", before_ready=True, deterministic=True))
    assert world.hash("endpoint", EP)["broken"] == "1"
    world.join("w2")
    assert world.run(world.t.ready(EP, "w2", {"fq_cold_ms": 12})) == "ok"

    assert (
        not {"failures", "failure", "failed_at", "first_failed_at", "broken"}
        & world.hash("endpoint", EP).keys()
    )
    assert world.hash("worker", "w2")["fq_cold_ms"] == "12"
    assert world.run(world.t.ready(EP, "w1", {})) == "gone"
    assert world.run(world.t.ready(EP, "w9", {})) == "gone"


# -- heartbeats --------------------------------------------------------------------------------------


def test_renewing_keeps_worker_and_leases(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    for _ in range(4):
        world.pass_ms(LEASE_MS // 2)
        answer = renew(world, worker, (held.job, held.fence), fq_rev="r1")
        assert (answer.verdict, answer.jobs, answer.now_ms) == ("ok", ("ok",), world.now_ms)
        world.reap()

    assert world.state(held.job) == JobState.RUNNING
    assert world.scores("leases") == {held.job: world.now_ms + LEASE_MS}
    assert world.scores("endpoint_workers") == {worker: world.now_ms + LEASE_MS}
    assert holds(world.hash("worker", worker), fq_beat=str(world.now_ms), fq_rev="r1")


def test_renewing_says_which_jobs_are_no_longer_held(world: World) -> None:
    held, other = world.running(), world.submit()
    worker = world.job(held.job)["worker_name"]
    world.finish(held)

    jobs = [(held.job, held.fence), (other, 1), ("embed-x", 1)]
    assert renew(world, worker, *jobs).jobs == ("lost", "lost", "lost")
    assert world.scores("leases") == {}


def test_a_worker_that_was_given_up_may_not_renew(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    world.silence()

    answer = renew(world, worker, (held.job, held.fence))
    assert (answer.verdict, answer.jobs) == ("gone", ())
    assert renew(world, "w9").verdict == "gone"
    assert world.claim_as(worker).verdict == "gone"
    assert world.scores("endpoint_workers") == {}


# -- drain -------------------------------------------------------------------------------------------


def test_an_idle_worker_agrees_to_drain(world: World) -> None:
    worker = world.worker()
    world.claim(worker)
    assert world.run(world.t.drain(EP, worker, "idle for 60 s")) == "ok"

    assert world.scores("idle") == {}
    assert world.listed("bell", worker) == ["drain"]
    job = world.submit()
    assert world.claim_as(worker).verdict == "drain"
    assert renew(world, worker).verdict == "drain"
    assert world.listed("queue") == [job]
    assert world.scores("idle") == {}


def test_a_busy_worker_does_not_drain_unless_forced(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]

    assert world.run(world.t.drain(EP, worker, "surplus")) == "busy"
    assert renew(world, worker).verdict == "ok"
    assert world.run(world.t.drain(EP, worker, "replaced", force=True)) == "ok"
    assert world.finish(held) == "ok"
    assert world.claim_as(worker).verdict == "drain"


def test_who_is_not_there_cannot_drain(world: World) -> None:
    worker = world.worker()
    world.run(world.t.leave(EP, worker, "left"))

    assert world.run(world.t.drain(EP, worker, "surplus")) == "unknown"
    assert world.run(world.t.drain(EP, "w9", "surplus")) == "unknown"
    assert world.run(world.t.drain("other", worker, "surplus")) == "unknown"


# -- leaving -----------------------------------------------------------------------------------------


def test_what_a_worker_held_is_recovered_when_it_leaves(world: World) -> None:
    for _ in range(2):
        world.submit()
    worker, other = world.worker(), world.worker()
    begun, waiting = world.claim(worker, count=2)
    elsewhere = world.running(other)

    assert world.run(world.t.leave(EP, worker, "killed")) == 0
    assert world.resent == -1
    assert [world.state(held.job) for held in (begun, waiting, elsewhere)] == ["queued", "queued", "running"]
    assert (world.job(begun.job)["fq_losses"], world.job(waiting.job).get("fq_losses", "0")) == ("1", "0")
    record = world.hash("worker", worker)
    assert holds(record, fq_end="killed", death="2025-06-15T15:06:40.000000Z")
    assert 0 < world.redis.ttl(world.keys.of("worker", worker)) <= 60
    assert world.redis.smembers(world.keys.of("rq_workers")) == {world.keys.of("worker", other).encode()}
    assert world.listed("wake", "") == ["1"]


def test_failed_starts_are_counted(world: World) -> None:
    said = []
    for number, deterministic in enumerate((True, False, True)):
        world.join(f"w{number}")
        leave = world.t.leave(
            EP, f"w{number}", f"why {number}", before_ready=True, deterministic=deterministic
        )
        said.append(world.run(leave))

    assert said == [1, 1, 2]
    assert holds(world.hash("endpoint", EP), failures="3", broken="2", failure="why 2")


@pytest.mark.parametrize(
    "changes", [{}, {"revision": "r2"}, {"environment": "env-2"}, {"scaling": '{"a": 1}'}]
)
def test_registering_anew_forgives_a_broken_endpoint(world: World, changes: dict[str, str]) -> None:
    world.join("w1")
    world.run(world.t.leave(EP, "w1", "no module", before_ready=True, deterministic=True))
    world.register(**changes)

    assert not {"failures", "broken", "failure"} & world.hash("endpoint", EP).keys()


def test_an_idle_worker_that_left_is_not_woken(world: World) -> None:
    worker = world.worker()
    world.claim(worker)
    world.run(world.t.leave(EP, worker, "left"))

    assert world.submit_as("embed-1").detail == "1"
    assert world.scores("idle") == {}


# -- hosts -------------------------------------------------------------------------------------------


def beat(world: World) -> Beat:
    return world.run(world.t.host_beat(HOST, lease_ms=LEASE_MS, fields={"cpus": 4}))


def test_a_hosts_heartbeat(world: World) -> None:
    assert beat(world) == Beat(world.now_ms, 0)

    assert world.scores("hosts", "") == {HOST: world.now_ms + LEASE_MS}
    assert world.hash("host", HOST) == {"cpus": "4", "beat": str(world.now_ms)}
    assert world.redis.ttl(world.keys.of("host", HOST)) > 0


def test_on_a_host_whose_worker_fell_silent_nothing_is_ordered_until_it_beats(world: World) -> None:
    """Given a worker silent for a lease, whose host has not said why, expect the host to count as gone with it."""
    world.worker(fq_host=HOST)
    world.reap()
    world.pass_ms(3000)
    beat(world)
    for _ in range(4):
        world.reap()
        world.pass_ms((LEASE_MS - 3000) // 4)
    world.reap()
    assert world.scores("endpoint_workers") == {}
    assert world.scores("hosts", "") == {HOST: world.now_ms}, "a lease after its worker's beat, not its own"

    assert order(world, "w2") == "silent"
    assert world.listed("commands", HOST) == []
    assert world.hash("worker", "w2") == {}

    beat(world)
    assert order(world, "w2") == "ok"


def test_a_host_that_beats_on_is_not_blamed_for_a_silent_worker(world: World) -> None:
    world.worker(fq_host=HOST)
    for _ in range(4):
        beat(world)
        world.reap()
        world.pass_ms(LEASE_MS // 4)
    world.reap()

    assert world.scores("endpoint_workers") == {}
    assert world.scores("hosts", "") == {HOST: world.now_ms + LEASE_MS - LEASE_MS // 4}
    assert order(world, "w2") == "ok"


def test_a_silent_worker_puts_no_host_on_record(world: World) -> None:
    world.worker(fq_host="by-hand")
    world.silence()

    assert world.scores("hosts", "") == {}


def test_a_host_is_forgotten_when_it_leaves_or_is_overdue(world: World) -> None:
    beat(world)
    order(world, "w1")
    overdue = world.t.host_leave(HOST, only_overdue=True)
    world.pass_ms(LEASE_MS - 1)
    assert world.run(overdue) == 0
    world.pass_ms(1)
    assert world.run(overdue) == 1
    assert (world.hash("host", HOST), world.listed("commands", HOST)) == ({}, [])

    beat(world)
    assert world.run(world.t.host_leave(HOST)) == 1
    assert world.resent == 0


# -- what the autoscaler sees ------------------------------------------------------------------------


def test_everything_of_one_endpoint_at_one_instant(world: World) -> None:
    held = world.running()
    began = world.now_ms
    worker = world.job(held.job)["worker_name"]
    world.pass_ms(10)
    first = world.now_ms
    world.submit()
    world.pass_ms(10)
    world.submit(priority=3)
    world.submit(delay_ms=5000)
    seen = world.run(world.t.observe(EP))

    assert seen.now_ms == world.now_ms
    assert (seen.queued, seen.scheduled, seen.began_ms) == (2, 1, (began,))
    assert seen.enqueued_ms == (world.now_ms, first)
    assert seen.record["revision"] == "r1"
    assert [(row.id, row.expires_ms) for row in seen.workers] == [(worker, began + LEASE_MS)]
    assert seen.workers[0].fields["fq_state"] == "running"
    assert world.run(world.t.observe("other")).record == {}
