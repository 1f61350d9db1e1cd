"""REAP: silence, grace, clocks that jump, and what is no longer needed."""

from __future__ import annotations

import pytest

from flashq.model.lifecycle import JobState
from tests.conformance.world import EP, LEASE_MS, START_MS, World

HOUR_MS = 3_600_000


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


def test_a_worker_that_claims_is_heard_of_by_that(world: World) -> None:
    """Given a worker that could not renew for most of a lease, if it claims just before its place would end, expect
    it to have what it began for a whole lease."""
    worker = world.worker()
    for _ in range(LEASE_MS // 1000 - 1):
        world.reap()
        world.pass_ms(1000)
    job = world.submit()
    (held,) = world.claim(worker)
    for _ in range(LEASE_MS // 1000 - 1):
        world.pass_ms(1000)
        assert not world.reap()

    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(job, held.fence)]))
    assert (renewed.verdict, renewed.jobs) == ("ok", ("ok",))


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
    job = world.submit(max_deliveries=2)
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
    held = world.running(at_most_once=True)
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


def test_a_clock_that_is_put_right_holds_up_no_retry(world: World) -> None:
    """Given a retry planned while the clock was an hour ahead, if that is put right, expect it after its delay."""
    held = world.running()
    world.reap()
    world.pass_ms(HOUR_MS)
    world.reap()
    assert world.finish(held, "retry", delay_ms=3000) == "ok"
    world.pass_ms(-HOUR_MS)
    world.reap()
    assert world.state(held.job) == JobState.SCHEDULED
    world.pass_ms(3000)
    assert world.reap().promoted == 1
    assert world.state(held.job) == JobState.QUEUED


def test_a_clock_that_is_put_right_holds_up_no_delayed_job_and_hastens_none(world: World) -> None:
    """Given delays begun before a clock was ahead and meanwhile, if it is put right, expect both unchanged."""
    before = world.submit(delay_ms=2 * HOUR_MS)
    due = world.scores("scheduled")[before]
    world.reap()
    world.pass_ms(HOUR_MS)
    world.reap()
    meanwhile = world.submit(delay_ms=HOUR_MS)
    world.pass_ms(-HOUR_MS)
    world.reap()

    assert world.scores("scheduled") == {before: due, meanwhile: (world.now_ms + HOUR_MS) / 1000}


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
        term=world.term,
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
    world.redis.delete(world.keys.of("job", held.job), world.keys.of("results", held.job))  # as on expiry
    world.pass_ms(3000)
    world.reap()

    assert list(world.scores(registry)) == [kept.job]
