"""Row 34 of the failure matrix: the leases of very many jobs end at once."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from benchmarks import expiry
from flashq import Endpoint
from flashq.store.broker import Broker
from tests.rig import BrokerServer, Rig, rig, wait_until

pytestmark = pytest.mark.timeout(120)

MOST_MS = 10
BUSY = 2
"""How much longer the processor may take on a machine that others use too."""


@pytest.mark.parametrize(
    ("server", "leases"),
    [
        pytest.param("valkey", 20_000, marks=pytest.mark.requires("valkey")),
        pytest.param("redis", 5_000, marks=pytest.mark.requires("redis")),
        pytest.param(
            "valkey",
            100_000,
            marks=[pytest.mark.requires("valkey"), pytest.mark.chaos, pytest.mark.timeout(300)],
        ),
    ],
)
def test_every_script_stays_short_while_very_many_leases_end(server: str, leases: int) -> None:
    """Row 34. Given leases that all end at once, expect them recovered in steps, and no script to take long."""
    with closing(BrokerServer(server, appendonly="no")) as own, closing(Broker(own.url)) as broker:
        took = expiry.measure(broker, leases)
    assert took["reap"]["runs"] > leases / 100
    for script, ms in took.items():
        assert ms["median"] < MOST_MS, (script, ms)
        assert ms["p99"] < BUSY * MOST_MS, (script, ms)


@Endpoint(name="throng", cpu="any", workers=(0, 1))
def number(n: int) -> int:
    return n


@pytest.mark.requires("valkey")
def test_one_reaper_does_not_leave_the_rest_for_its_next_look() -> None:
    """Row 34. Given many leases that ended and one worker to recover them, expect it to go on until there is none."""
    with rig() as made:
        made.register(number)
        jobs = [number(n) for n in range(2000)]
        wait_until(lambda: all(job._call.acknowledged.done for job in jobs))
        abandon(made, len(jobs))
        made.worker(number)
        leases = made.broker.keys.of("leases", "throng")
        wait_until(lambda: made.broker.execute("ZCARD", leases) <= 8, 20, "all leases recovered")
        assert [job.result(60) for job in jobs] == list(range(2000))


def abandon(made: Rig, count: int) -> None:
    """Have so many jobs claimed by a worker that is never heard of again."""
    t = made.broker.transitions
    made.broker.run(t.join("throng", "ghost", lease_ms=50, booked=False, fields={}))
    for step in range(0, count, 500):
        claim: Any = t.claim(
            "throng", "ghost", f"n{step}", count=500, lease_ms=50, start=0, holding=step, room=500
        )
        assert len(made.broker.run(claim).jobs) == 500
