"""What a worker is given whose endpoint wants another GPU or another size since it was ordered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.test_workers import order
from tests.conformance.world import EP, LEASE_MS, World

FIRST = {"revision": "r1", "resources": "res-1", "needs": "small"}
SECOND = {"revision": "r2", "resources": "res-2", "needs": "large"}


def ordered(world: World, worker: str, **changes: Any) -> str:
    """A worker that an autoscaler ordered for the current resources, and that is ready."""
    resources = world.hash("endpoint", EP)["resources"]
    assert order(world, worker, **{"environment": resources, "most": 9, **changes}) == "ok"
    assert world.join(worker, booked=True).verdict == "ok"
    world.run(world.t.ready(EP, worker, {}))
    return worker


def got(world: World, worker: str, **options: Any) -> list[str]:
    return [job.job for job in world.claim(worker, **options)]


@pytest.fixture
def outdated(world: World) -> str:
    """A worker of the first resources, idle when the second were registered."""
    world.register(**FIRST)
    worker = ordered(world, "w1")
    assert got(world, worker) == []
    assert world.scores("idle") == {worker: world.now_ms}
    world.register(**SECOND)
    return worker


def test_it_is_idle_for_nobody(world: World, outdated: str) -> None:
    assert world.scores("idle") == {}
    assert got(world, outdated) == []
    assert world.scores("idle") == {}
    assert world.submit_as("embed-1", revision="r2").detail == "1", "the autoscaler is woken"
    assert world.listed("bell", outdated) == []


def test_it_gets_no_job_of_the_current_revision(world: World, outdated: str) -> None:
    job = world.submit(revision="r2")
    assert got(world, outdated) == []
    assert got(world, ordered(world, "w2")) == [job]


def test_it_gets_what_waited_before_and_what_older_programs_submit(world: World) -> None:
    world.register(**FIRST)
    worker = ordered(world, "w1")
    before = world.submit(revision="r1")
    world.register(**SECOND)
    current = world.submit(revision="r2")
    urgent = world.submit(revision="r2", priority=5)
    older = world.submit(revision="r1")

    assert got(world, worker, count=9) == [before, older]
    assert got(world, ordered(world, "w2"), count=9) == [urgent, current]


def test_jobs_in_its_hand_are_its_own(world: World) -> None:
    world.register(**FIRST)
    held = world.running(ordered(world, "w1"))
    world.register(**SECOND)

    renewed = world.run(world.t.renew(EP, "w1", lease_ms=LEASE_MS, jobs=[(held.job, held.fence)]))
    assert (renewed.verdict, renewed.jobs) == ("ok", ("ok",))
    assert world.finish(held) == "ok"


def test_another_environment_is_no_reason(world: World) -> None:
    world.register(**FIRST)
    worker = ordered(world, "w1")
    assert world.register(**{**FIRST, "revision": "r2", "resources": "res-2"}).verdict == "replaced"
    job = world.submit(revision="r2")
    assert got(world, worker) == [job]


def test_what_is_as_it_was_is_served_again(world: World, outdated: str) -> None:
    world.register(**FIRST)
    assert got(world, outdated) == []
    assert world.scores("idle") == {outdated: world.now_ms}
    assert world.submit_as("embed-1", revision="r1").detail == "0"


def test_a_worker_started_by_hand_serves_whatever_comes(world: World) -> None:
    world.register(**FIRST)
    worker = world.worker()
    world.register(**SECOND)
    job = world.submit(revision="r2")
    assert got(world, worker) == [job]


def test_one_ordered_for_what_was_changed_meanwhile_is_outdated_from_the_start(world: World) -> None:
    world.register(**FIRST)
    world.register(**SECOND)
    late = ordered(world, "w1", environment="res-1")
    job = world.submit(revision="r2")
    assert got(world, late) == []
    assert got(world, ordered(world, "w2")) == [job]


def test_where_nothing_is_said_of_needs_all_serve_all(world: World) -> None:
    worker = ordered(world, "w1")
    world.register(revision="r2", resources="res-2")
    job = world.submit(revision="r2")
    assert got(world, worker) == [job]
