"""flashq's side of the interleaved run: round trips, throughput, map, calls in flight, submits."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flashq import Endpoint
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@Endpoint(name="noop", cpu="any", workers=(0, 1))
def noop(value: bytes) -> bytes:
    """Gives back what it got."""
    return value


PAYLOAD = b"x" * 100


@contextmanager
def one_worker(rig: Rig) -> Iterator[None]:
    """One ready worker for the length of the block."""
    worker = rig.ready_worker(noop, lease_s=15.0)
    try:
        yield
    finally:
        worker.close()
        rig.broker.run(rig.broker.transitions.leave("noop", worker.id, "measured"))


def timed(call: Callable[[], object]) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def round_trips(count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        noop.remote(PAYLOAD)
        took.append(time.perf_counter() - started)
    return took


def enqueue(count: int) -> float:
    """Submit `count` calls nobody works on yet, all acknowledged; seconds it took."""
    started = time.perf_counter()
    jobs = [noop(PAYLOAD) for _ in range(count)]
    jobs[-1]._call.acknowledged.result(60)
    return time.perf_counter() - started


def drained(rig: Rig, count: int) -> float:
    """Wait until `count` jobs are finished; seconds between the first claim and the last end, by the broker."""
    stats = rig.broker.keys.of("stats", "noop")
    wait_until(lambda: int(rig.broker.execute("HGET", stats, "finished") or 0) >= count, 120)
    finished = rig.broker.keys.of("finished", "noop")
    jobs = [j.decode() for j in rig.broker.execute("ZRANGE", finished, 0, -1)]
    began = min(float(rig.job_field(j, "fq_claimed")) for j in (jobs[:50] + jobs[-50:]))
    ended = max(float(rig.job_field(j, "fq_ended")) for j in (jobs[:50] + jobs[-50:]))
    return (ended - began) / 1000


def mapped(count: int) -> float:
    """Seconds of a map of `count` small calls."""
    started = time.perf_counter()
    for value in noop.map([PAYLOAD] * count, progress=False):
        assert value == PAYLOAD
    return time.perf_counter() - started


def in_flight(tasks: int, calls: int) -> tuple[float, list[float]]:
    """`tasks` callers in one event loop, each `calls` calls one after the other: seconds in all, and of each."""
    took: list[float] = []

    async def caller() -> None:
        for _ in range(calls):
            started = time.perf_counter()
            await noop(PAYLOAD)
            took.append(time.perf_counter() - started)

    async def everybody() -> None:
        await asyncio.gather(*(caller() for _ in range(tasks)))

    started = time.perf_counter()
    asyncio.run(everybody())
    return time.perf_counter() - started, took
