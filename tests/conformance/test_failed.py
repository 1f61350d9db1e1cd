"""PURGE FAILED and REQUEUE FAILED: the dead letters of an endpoint, in bounded batches. Row 30."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flashq.model.lifecycle import JobState
from flashq.store import failed
from tests.conformance.world import EP, World

if TYPE_CHECKING:
    from flashq.store.records import Claimed


def fail(world: World, state: str = "failed", reason: str = "exception", **terms: Any) -> Claimed:
    held = world.running(**terms)
    world.finish(held, state, reason=reason, text=f"because of {reason}", keep_s=3600)
    return held


def test_failed_jobs_begin_anew_and_others_stay(world: World) -> None:
    jobs = [fail(world).job, fail(world, "timed_out", "timeout").job]
    done, cancelled = world.running(), world.submit()
    world.finish(done)
    world.run(world.t.cancel(cancelled))

    assert world.run(world.t.requeue_failed(EP, EP, before_ms=world.now_ms)) == (2, 2)
    assert world.resent == (0, 0)
    assert sorted(world.listed("queue")) == sorted(jobs)
    assert {world.job(job)["fq_gen"] for job in jobs} == {"1"}
    assert (world.state(done.job), world.state(cancelled)) == ("finished", "cancelled")


def test_failed_jobs_are_deleted_with_what_was_kept_of_them(world: World) -> None:
    world.run(world.t.log((job := fail(world).job), 1, 0, b"output"))
    other = fail(world, reason="crash").job

    assert world.run(world.t.purge_failed(EP, EP, before_ms=world.now_ms, reason="exception")) == (2, 1)
    assert not [key for key in world.snapshot() if job in key]
    assert world.state(other) == JobState.FAILED
    assert list(world.scores("failed")) == [other]


def test_what_fails_again_meanwhile_is_not_begun_once_more(world: World) -> None:
    held = fail(world)
    before_ms = world.now_ms
    world.run(world.t.requeue(held.job))
    (again,) = world.claim(world.worker())
    world.pass_ms(1)
    world.finish(again, "failed", reason="exception")

    assert world.run(world.t.requeue_failed(EP, EP, before_ms=before_ms)) == (1, 0)


def test_batches_pass_by_what_does_not_match(world: World) -> None:
    reasons = ["exception", "crash", "exception", "lost", "exception"]
    for reason in reasons:
        fail(world, reason=reason)
        world.pass_ms(1000)  # the order of the registry is that of the ends
    asked: dict[str, Any] = {"before_ms": world.now_ms, "reason": "exception", "limit": 2}

    assert world.run(world.t.purge_failed(EP, EP, **asked), again=False) == (2, 1)
    assert world.run(world.t.purge_failed(EP, EP, offset=1, **asked), again=False) == (2, 1)
    assert world.run(world.t.purge_failed(EP, EP, offset=2, **asked), again=False) == (1, 1)


@pytest.mark.parametrize("what", ["requeue", "purge"])
def test_all_of_an_endpoint_whatever_their_number_and_queue(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(failed, "_AT_ONCE", 2)
    jobs = [fail(world, priority=priority).job for priority in (0, 0, 5, 0, -2, 0, 0)]
    kept = fail(world, reason="refused").job
    act = failed.requeue if what == "requeue" else failed.purge

    assert act(world.broker, EP, reason="exception") == len(jobs)  # type: ignore[arg-type]
    assert {world.state(job) for job in jobs} == {"queued" if what == "requeue" else ""}
    assert world.state(kept) == JobState.FAILED


def test_the_list_says_why_and_how_often(world: World) -> None:
    fail(world, reason="exception")
    world.pass_ms(2000)
    held = world.running(max_deliveries=2)
    world.finish(held, "retry")
    for _ in range(2):
        (held,) = world.claim(world.worker())
        world.run(world.t.crash(held.job, held.fence, "killed by SIGKILL", b"", 60))

    rows = failed.listed(world.broker, EP)  # type: ignore[arg-type]
    (lost,) = [row for row in rows if row.id == held.job]
    assert (lost.reason, lost.attempts, lost.retries, lost.losses) == ("lost", 3, 1, 2)
    assert lost.error == "killed by SIGKILL; run 3 time(s), none of which ended"
    assert [row.id for row in failed.listed(world.broker, EP, reason="lost")] == [held.job]  # type: ignore[arg-type]
    assert len(failed.listed(world.broker, EP, limit=1)) == 1  # type: ignore[arg-type]
