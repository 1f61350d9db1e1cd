"""PROGRESS: how far a job is, by the newest run's own word, never backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.world import World


def tell(world: World, job: str, fence: int, worker: str, number: int, value: bytes) -> str:
    return world.run(world.t.progress(job, fence, worker, number, value))


def test_the_last_word_counts_whatever_the_order_of_arrival(world: World) -> None:
    worker = world.worker()
    run = world.running(worker)

    assert tell(world, run.job, run.fence, worker, 2, b"0.5") == "ok"
    assert world.resent == "ok"
    assert tell(world, run.job, run.fence, worker, 1, b"0.1") == "ok"

    assert world.hash("job", run.job)["fq_progress"] == "0.5"


def test_a_stale_run_says_nothing(world: World) -> None:
    old, new = world.taken_away()
    holder = world.hash("job", new.job)["worker_name"]

    assert tell(world, new.job, old.fence, holder, 9, b"0.9") == "stale"
    assert "fq_progress" not in world.hash("job", new.job)
    assert tell(world, new.job, new.fence, holder, 1, b"0.1") == "ok"
    assert world.hash("job", new.job)["fq_progress"] == "0.1"


def test_a_later_run_begins_anew(world: World) -> None:
    worker = world.worker()
    first = world.running(worker)
    tell(world, first.job, first.fence, worker, 7, b"0.7")
    world.run(world.t.release(first.job, first.fence, worker))
    (second,) = world.claim(worker)
    tell(world, second.job, second.fence, worker, 1, b"0.1")

    assert world.hash("job", first.job)["fq_progress"] == "0.1"
