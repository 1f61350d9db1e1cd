"""START, CRASH, RELEASE and the cancel of what runs: fences, attempts, budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flashq.model.lifecycle import JobState
from flashq.store.records import Settlement
from tests.conformance.world import EP, LEASE_MS, World, holds

if TYPE_CHECKING:
    from flashq.store.records import Claimed

# -- starting ----------------------------------------------------------------------------------------


def test_an_attempt_counts_from_start(world: World) -> None:
    held = world.claimed()
    assert world.run(world.t.start(held.job, held.fence)) == "ok"
    assert world.resent == "ok"

    assert holds(world.job(held.job), fq_state="running", fq_attempts="1")


def test_start_tells_of_a_cancel(world: World) -> None:
    held = world.claimed()
    world.run(world.t.cancel(held.job))

    assert world.run(world.t.start(held.job, held.fence)) == "cancel"


# -- fences ------------------------------------------------------------------------------------------


def test_fences_rise(world: World) -> None:
    old, new = world.taken_away()

    assert (old.fence, new.fence) == (1, 2)


def test_a_stale_holder_changes_nothing(world: World) -> None:
    old, new = world.taken_away()
    before = world.job(old.job)
    late = Settlement(old.job, old.fence, "finished", outcome=b"late")
    worker = world.worker()

    assert world.run(world.t.start(old.job, old.fence)) == "stale"
    assert world.run(world.t.finish(late)) == "stale"
    assert world.run(world.t.finish(replace(late, state="retry"))) == "stale"
    assert world.run(world.t.finish(replace(late, state="failed"))) == "stale"
    assert world.run(world.t.release(old.job, old.fence)) == "stale"
    assert world.run(world.t.crash(old.job, old.fence, "killed", b"", 60)) == "stale"
    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(old.job, old.fence)]))
    assert renewed.jobs == ("lost",)
    assert world.job(old.job) == before
    assert ("stale-outcome", old.job) in world.events()

    assert world.finish(new, outcome=b"right") == "ok"
    assert world.run(world.t.finish(late)) == "stale"
    assert world.job(old.job)["fq_outcome"] == "right"


def test_the_same_fence_in_another_workers_hand_changes_nothing(world: World) -> None:
    # Given a claim that a failover lost, whose fence the new primary gave to another worker
    held, other = world.running(), world.worker()
    before = world.job(held.job)
    late = Settlement(held.job, held.fence, "finished", outcome=b"late")

    # If the first one goes on, expect every step of it to be refused
    assert world.run(world.t.start(held.job, held.fence, other)) == "stale"
    assert world.run(world.t.finish(late, other)) == "stale"
    assert world.run(world.t.finish(replace(late, state="retry"), other)) == "stale"
    assert world.run(world.t.release(held.job, held.fence, other)) == "stale"
    assert world.run(world.t.crash(held.job, held.fence, "killed", b"", 60, other)) == "stale"
    renewed = world.run(world.t.renew(EP, other, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)]))
    assert renewed.jobs == ("lost",)
    assert world.job(held.job) == before

    # Expect it refused also once the second one has finished
    mine = world.job(held.job)["worker_name"]
    assert world.run(world.t.finish(replace(late, outcome=b"right"), mine)) == "ok"
    assert world.run(world.t.finish(late, other)) == "stale"
    assert world.job(held.job)["fq_outcome"] == "right"


def test_a_fence_that_was_never_given_is_refused(world: World) -> None:
    held = world.running()

    assert world.finish(replace(held, fence=held.fence + 1)) == "stale"
    assert world.finish(replace(held, fence=0)) == "stale"
    assert world.state(held.job) == JobState.RUNNING


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "timed_out"])
def test_a_second_outcome_of_the_same_run_changes_nothing(world: World, state: str) -> None:
    held = world.running()
    world.finish(held, state, outcome=b"first")

    assert world.finish(held, "failed", outcome=b"second") == "ok"
    assert holds(world.job(held.job), fq_state=state, fq_outcome="first")
    assert world.redis.xlen(world.keys.of("results", held.job)) == (state != "cancelled")


def test_an_outcome_of_a_deleted_job_is_gone(world: World) -> None:
    held = world.running()
    world.finish(held)
    world.run(world.t.delete(held.job))

    assert world.finish(held) == "gone"


# -- crashes and losses ------------------------------------------------------------------------------


def crash(world: World, held: Claimed) -> str:
    return world.run(world.t.crash(held.job, held.fence, "killed by SIGSEGV", b"final", 500))


def test_a_crash_is_delivered_again_within_the_budget(world: World) -> None:
    job = world.submit(max_deliveries=2)
    other = world.submit()
    (first,) = world.claim(world.worker())
    assert crash(world, first) == "queued"
    assert world.resent == "queued"
    assert world.listed("queue") == [job, other]

    (second,) = world.claim(world.worker())
    assert (second.job, second.fence, second.losses, second.attempt) == (job, 2, 1, 2)
    assert crash(world, second) == "failed"
    assert world.resent == "failed"
    told = world.watch(job)
    assert (told.state, told.reason, told.outcome) == (JobState.FAILED, "lost", b"final")
    assert told.text == "killed by SIGSEGV; run 2 time(s), none of which ended"
    assert world.redis.ttl(world.keys.of("job", job)) <= 500


def test_three_deliveries_unless_told_otherwise(world: World) -> None:
    world.submit()
    said = [crash(world, world.claim(world.worker())[0]) for _ in range(3)]

    assert said == ["queued", "queued", "failed"]


def test_losses_and_retries_have_budgets_of_their_own(world: World) -> None:
    held = world.running(max_deliveries=2)
    world.finish(held, "retry")
    (held,) = world.claim(world.worker())
    crash(world, held)
    (held,) = world.claim(world.worker())
    world.finish(held, "retry")
    (held,) = world.claim(world.worker())

    assert (held.attempt, held.losses, held.retries_used) == (4, 1, 2)
    assert crash(world, held) == "failed"


def test_what_had_not_begun_is_not_counted_as_lost(world: World) -> None:
    held = world.claimed()
    assert crash(world, held) == "queued"

    (again,) = world.claim(world.worker())
    assert (again.losses, again.attempt) == (0, 1)


def test_at_most_once_means_no_second_run(world: World) -> None:
    held = world.running(at_most_once=True)

    assert crash(world, held) == "failed"
    assert world.watch(held.job).reason == "lost_once"


def test_at_most_once_allows_a_second_claim_before_the_start(world: World) -> None:
    held = world.claimed(at_most_once=True)

    assert crash(world, held) == "queued"
    assert [again.job for again in world.claim(world.worker())] == [held.job]


def test_a_crash_of_a_cancelled_job_ends_it(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert crash(world, held) == "cancelled"
    assert world.resent == "cancelled"


# -- giving back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1])
def test_a_released_job_goes_to_the_front_uncounted(world: World, start: int) -> None:
    first, second = world.submit(), world.submit()
    (held,) = world.claim(world.worker(), start=start)
    assert world.run(world.t.release(held.job, held.fence)) == "ok"
    assert world.resent == "ok"

    assert world.listed("queue") == [first, second]
    assert world.job(first).get("fq_attempts", "0") == "0"
    (again,) = world.claim(world.worker())
    assert (again.job, again.fence, again.attempt, again.losses) == (first, 2, 1, 0)
    assert world.run(world.t.release(held.job, held.fence)) == "stale"


def test_a_released_job_whose_caller_cancelled_it_ends(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.run(world.t.release(held.job, held.fence)) == "cancelled"
    assert world.resent == "cancelled"


@pytest.mark.parametrize(
    ("start", "begun", "said", "state"),
    [
        (1, True, "failed", "failed"),
        (1, False, "ok", "queued"),
        (0, False, "ok", "queued"),
        (0, True, "ok", "queued"),
    ],
)
def test_what_may_begin_only_once_is_given_back_only_unbegun(
    world: World, start: int, begun: bool, said: str, state: str
) -> None:
    job = world.submit(at_most_once=True)
    (held,) = world.claim(world.worker(), start=start)

    assert world.run(world.t.release(job, held.fence, begun=begun)) == said
    assert world.resent == said
    assert world.state(job) == state
    if state == "failed":
        assert world.watch(job).reason == "lost_once"


# -- cancel races ------------------------------------------------------------------------------------


def test_cancel_reaches_the_worker(world: World) -> None:
    held = world.running()
    worker = world.job(held.job)["worker_name"]
    assert world.run(world.t.cancel(held.job)) == "requested"

    assert world.listed("bell", worker) == [f"cancel:{held.job}"] * 2  # sent twice
    renewed = world.run(world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=[(held.job, held.fence)]))
    assert renewed.jobs == ("cancel",)
    assert world.state(held.job) == JobState.RUNNING


def test_complete_wins_over_a_cancel_that_comes_too_late(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.finish(held) == "ok"
    assert world.run(world.t.cancel(held.job)) == "finished"
    assert world.state(held.job) == JobState.FINISHED


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_cancel_wins_over_every_end_without_a_value(world: World, state: str) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.finish(held, state, reason="exception", text="ValueError: no", outcome=b"signed") == "ok"
    told = world.watch(held.job)
    assert told.state is JobState.CANCELLED
    if state != "cancelled":  # the worker signed another ending: the broker's own has no outcome
        assert (told.reason, told.outcome) == ("cancelled", b"")
        assert told.text == "cancelled; its run had ended with ValueError: no"


@pytest.mark.parametrize("delay_ms", [0, 3000])
def test_cancel_wins_over_a_retry(world: World, delay_ms: int) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))

    assert world.finish(held, "retry", delay_ms=delay_ms) == "ok"
    assert world.state(held.job) == JobState.CANCELLED


def test_a_cancel_between_two_runs_ends_the_job(world: World) -> None:
    held = world.running()
    world.finish(held, "retry", delay_ms=3000)

    assert world.run(world.t.cancel(held.job)) == "cancelled"
    world.pass_ms(3000)
    assert world.reap().promoted == 0


def test_a_cancel_asked_for_is_not_carried_into_the_next_generation(world: World) -> None:
    held = world.running()
    world.run(world.t.cancel(held.job))
    world.finish(held, "cancelled")
    world.run(world.t.requeue(held.job))
    (again,) = world.claim(world.worker(), start=0)

    assert world.run(world.t.start(again.job, again.fence)) == "ok"


# -- output ------------------------------------------------------------------------------------------


def test_output_is_kept_for_a_while(world: World) -> None:
    assert world.run(world.t.log("embed-1", 1, 0, b"first\n", keep_s=100)) == 1
    assert world.run(world.t.log("embed-1", 1, 6, b"\xff second\n", keep_s=100)) == 1
    assert world.resent == 0

    rows = world.redis.xrange(world.keys.of("logs", "embed-1"))
    assert [fields[b"text"] for _, fields in rows] == [b"first\n", b"\xff second\n"]
    assert 0 < world.redis.ttl(world.keys.of("logs", "embed-1")) <= 100


def test_output_that_was_sent_again_or_comes_late_is_passed_over(world: World) -> None:
    """Row 2. Pieces whose answers were lost are sent again, all of them in their order."""
    pieces = [(1, 0, b"first run\n"), (2, 0, b"second "), (2, 7, b"run\n")]
    late = [*pieces, (1, 10, b"more of the first\n")]
    for fence, at, text in [*pieces, *late]:
        world.run(world.t.log("embed-1", fence, at, text))

    rows = world.redis.xrange(world.keys.of("logs", "embed-1"))
    assert [fields[b"text"] for _, fields in rows] == [text for _, _, text in pieces]
