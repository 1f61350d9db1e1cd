"""Calls that jobs make: they go before all others, are counted apart, and their worker's place is lent meanwhile."""

from __future__ import annotations

from flashq.model.parameters import MAX_PRIORITY, NESTED_PRIORITY
from tests.conformance.world import EP, World


def test_what_jobs_called_is_claimed_before_everything_else(world: World) -> None:
    worker = world.worker()
    plain = world.submit()
    urgent = world.submit(priority=MAX_PRIORITY)
    nested = world.submit(priority=NESTED_PRIORITY, parent="parent-1")

    assert [claimed.job for claimed in world.claim(worker, count=3)] == [nested, urgent, plain]
    assert world.hash("job", nested)["fq_parent"] == "parent-1"


def test_it_is_counted_apart(world: World) -> None:
    world.submit()
    world.submit(priority=NESTED_PRIORITY, parent="parent-1")
    world.submit(priority=MAX_PRIORITY)

    seen = world.run(world.t.observe(EP))

    assert (seen.queued, seen.nested) == (3, 1)


def test_what_was_given_back_keeps_its_place(world: World) -> None:
    worker = world.worker()
    nested = world.submit(priority=NESTED_PRIORITY, parent="parent-1")
    (claimed,) = world.claim(worker)
    world.submit(priority=MAX_PRIORITY)
    world.run(world.t.release(nested, claimed.fence, worker))

    assert next(again.job for again in world.claim(worker, count=2)) == nested


def test_a_worker_lends_its_place_and_takes_it_back(world: World) -> None:
    worker = world.worker()
    world.redis.delete(world.keys.of("wake"))

    assert world.run(world.t.lend(EP, worker, lends=True)) == "ok"
    assert world.resent == "ok"
    assert [row.lends for row in world.run(world.t.observe(EP)).workers] == [True]
    assert world.redis.llen(world.keys.of("wake")) == 1, "the autoscaler looks at once"

    assert world.run(world.t.lend(EP, worker, lends=False)) == "ok"
    assert [row.lends for row in world.run(world.t.observe(EP)).workers] == [False]


def test_one_that_was_given_up_lends_nothing(world: World) -> None:
    worker = world.worker()
    world.run(world.t.leave(EP, worker, "lost"))

    assert world.run(world.t.lend(EP, worker, lends=True)) == "gone"
    assert "fq_lends" not in world.hash("worker", worker)
