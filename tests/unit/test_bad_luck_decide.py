"""Bad luck that lasts minutes or days, in a world that obeys every plan (see test_decide_closed_loop)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flashq_autoscaler.decide import decide
from tests.unit.scaling_world import NOW, endpoint, host, snapshot
from tests.unit.test_decide_closed_loop import TICK_S, World, one

if TYPE_CHECKING:
    from flashq_autoscaler.views import EndpointView

DAY_S = 86_400.0


def test_workers_that_exit_at_once_cost_little_in_seven_days_and_others_nothing() -> None:
    """Given a start that fails after 5 s, each time, if it is tried for a week, expect 0.2 % of the time to be its."""
    starts, now, dying = 0, NOW, endpoint("dying", workers=(0, 5), queued=9)
    well = endpoint("well", workers=(0, 1), queued=1)
    while True:
        dying = replace(dying, waits_s=(now - NOW,) * 9)
        plan = decide(snapshot([dying, well], hosts=[host(beat_at=now, slots=6)], now=now))
        assert [start.endpoint for start in plan.starts].count("well") == 1
        tried = [start for start in plan.starts if start.endpoint == "dying"]
        if tried:
            starts += len(tried)
            now += 5.0
            dying = _failed(dying, now)
            continue
        (retry,) = [state.condition for state in plan.states if state.endpoint == "dying"]
        if retry.code == "GIVEN_UP":
            break
        assert retry.retry_at is not None
        now = max(now + 0.001, retry.retry_at)
    assert 7 * DAY_S <= now - NOW < 8 * DAY_S
    assert starts > 20
    assert starts * 5.0 < 0.002 * 7 * DAY_S


def _failed(view: EndpointView, now: float) -> EndpointView:
    first = now if view.first_failure_at is None else view.first_failure_at
    return replace(view, failures=view.failures + 1, last_failure_at=now, first_failure_at=first)


def test_a_thousand_workers_of_which_a_fifth_loses_its_hosts() -> None:
    """Given 50 hosts with room for 25 workers each, and 1,000 at work, if 10 of the hosts die, expect 1,000 on the
    others within seconds, no host with more than it takes, and no live worker disturbed."""
    views = {f"e{n}": endpoint(f"e{n}", workers=(0, 20)) for n in range(50)}
    hosts = tuple(host(f"h{n:02}", slots=25) for n in range(50))
    world = World(views, hosts, service_s=1e9)
    for name in views:
        world.submit(name, 30)

    def most() -> int:
        return max(Counter(worker.host for worker in world.workers).values())

    world.run(1.0)
    assert [worker.state for worker in world.workers] == ["running"] * 1000
    assert most() <= 25

    dead = {each.id for each in hosts[:10]}
    lost = [worker for worker in world.workers if worker.host in dead]
    kept = {worker.id for worker in world.workers} - {worker.id for worker in lost}
    world.workers = tuple(worker for worker in world.workers if worker.host not in dead)
    world.hosts = hosts[10:]
    for worker in lost:
        world.submit(worker.endpoint)
    assert 100 < len(lost) <= 250
    world.run(1.0)

    assert [worker.state for worker in world.workers] == ["running"] * 1000
    assert kept <= {worker.id for worker in world.workers}
    assert most() <= 25
    assert not dead & {worker.host for worker in world.workers}


def test_workers_that_hang_while_they_start_are_not_replaced_by_ever_more() -> None:
    """Given starts that do not end, if jobs wait for minutes, expect the maximum of workers, all left alone."""
    world = one((0, 3))
    world.cold_s = 1e9
    world.submit("embed", 9)

    world.run(120.0)

    assert [worker.state for worker in world.live("embed")] == ["initializing"] * 3
    assert world.cold_starts == 3
    world.cold_s = 0.0
    world.run(5.0)
    assert world.done == 9


def test_workers_that_never_become_idle_are_let_be() -> None:
    """Given jobs that do not end, if idle_timeout passes many times, expect every worker to keep its job."""
    world = one((0, 2))
    world.service_s = 1e9
    world.submit("embed", 5)

    world.run(120.0)

    assert [worker.state for worker in world.live("embed")] == ["running"] * 2
    assert not any(worker.draining for worker in world.live("embed"))
    assert world.cold_starts == 2


@pytest.mark.parametrize(("every_s", "starts"), [(1.1, 40), (0.9, 1)])
def test_an_idle_timeout_of_one_second_with_a_job_every_so_often(every_s: float, starts: int) -> None:
    """Given workers that go after 1 s, if a job comes 0.1 s later than that, each time, expect a start for each and
    one worker at most; if it comes 0.1 s sooner, the same worker throughout."""
    world = one((0, 3))
    world.update("embed", idle_timeout_s=1.0)
    world.cold_s, world.service_s = 0.0, 0.0
    most = 0
    for _ in range(40):
        world.submit("embed")
        for _ in range(round(every_s / TICK_S)):
            world.run(TICK_S)
            most = max(most, len(world.live("embed")))

    assert world.done == 40
    assert most == 1
    assert world.cold_starts <= starts
    assert world.longest_wait_s <= 5 * TICK_S
    world.run(3.0)
    assert world.live("embed") == []
