"""Bounds: of what waits for an endpoint, of what a process has on its way to a slow broker, of a map. Row 25."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.errors import QueueFull, SubmitBacklog
from flashq.room import Room
from tests.rig import Rig, halt, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")
MOST = 500


@Endpoint(name="bounded", cpu="any", max_queued=MOST)
def bounded(number: int) -> int:
    return number


@Endpoint(name="narrow", cpu="any", max_queued=10)
def narrow(number: int) -> int:
    if number == 13:
        raise ValueError("unlucky")
    return number


@Endpoint(name="unbounded", cpu="any")
def unbounded(number: int) -> int:
    return number


@pytest.fixture
def shared() -> Iterator[Rig]:
    """A rig for each test: workers and waiting calls of one would be in the way of the next."""
    with rig() as made:
        yield made


@pytest.fixture
def stopped(shared: Rig) -> Iterator[Rig]:
    """Nothing is answered until the test ends, or lets the broker go on."""
    unbounded.spawn(0)
    assert shared.server._process is not None
    halt(shared.server.pid)
    before, shared.client.submission.room = shared.client.submission.room, Room(most_calls=100)
    yield shared
    go_on(shared)
    shared.client.submission.room = before


def go_on(made: Rig) -> None:
    assert made.server._process is not None
    made.server._process.send_signal(signal.SIGCONT)


def memory(made: Rig) -> int:
    """Bytes of the broker's data set."""
    lines = made.broker.execute("INFO", "memory").decode().splitlines()
    (used,) = [line for line in lines if line.startswith("used_memory_dataset:")]
    return int(used.partition(":")[2])


# -- of an endpoint ----------------------------------------------------------------------------------


def test_a_call_beyond_the_bound_is_refused_by_type_with_the_number(shared: Rig) -> None:
    for number in range(10):
        narrow.spawn(number)
    with pytest.raises(QueueFull, match="10 jobs wait") as caught:
        narrow.spawn(10)
    assert (caught.value.endpoint, caught.value.waiting) == ("narrow", 10)
    with pytest.raises(QueueFull):
        narrow.remote(11)
    with pytest.raises(QueueFull):
        asyncio.run(narrow(12).wait(10))
    assert narrow.queue.purge() == 10
    narrow.spawn(13).cancel()


def test_ten_thousand_submits_to_a_bounded_queue_keep_memory_flat_and_lose_nothing(shared: Rig) -> None:
    accepted: list[EndpointJob[int]] = []
    full = 0

    def submit(count: int) -> None:
        nonlocal full
        for start in range(0, count, 500):
            jobs = [bounded(n) for n in range(start, start + 500)]
            for job in jobs:
                try:
                    job._call.acknowledged.result(30)
                except QueueFull:
                    full += 1
                else:
                    accepted.append(job)

    submit(2000)
    tracemalloc.start()
    gc.collect()
    here, there = tracemalloc.get_traced_memory()[0], memory(shared)
    submit(8000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - here
    tracemalloc.stop()

    assert (len(accepted), full) == (MOST, 10_000 - MOST)
    assert len(bounded.queue) == MOST
    assert grown < 500_000, "in this process: less than 60 bytes for each refused call"
    assert memory(shared) - there < 200_000
    shared.worker(bounded)
    assert [job.result(30) for job in accepted] == list(range(MOST))


# -- of a process ------------------------------------------------------------------------------------


def test_a_slow_broker_blocks_who_submits_and_nothing_is_lost(stopped: Rig) -> None:
    jobs: list[EndpointJob[int]] = []
    thread = threading.Thread(target=lambda: jobs.extend(unbounded(n) for n in range(300)))
    room = stopped.client.submission.room
    thread.start()
    wait_until(lambda: room._waiters, what="it blocks")
    assert room._calls == 100
    assert len(stopped.client.waiting) <= 102  # one came before, one is about to

    go_on(stopped)
    thread.join(30)
    assert len(jobs) == 300
    for job in jobs:
        job._call.acknowledged.result(30)
    assert (room._calls, room._bytes) == (0, 0)


def test_an_event_loop_is_not_held_up_by_a_slow_broker(stopped: Rig) -> None:
    async def main() -> tuple[int, list[EndpointJob[int]]]:
        jobs = [unbounded(n) for n in range(100)]
        with pytest.raises(SubmitBacklog, match="aspawn"):
            unbounded(100)
        waits = asyncio.gather(*(unbounded.aspawn(n) for n in range(100, 150)))
        for turns in range(1000):
            await asyncio.sleep(0.001)
            if turns == 100:
                assert not waits.done()
                go_on(stopped)
            if waits.done():
                break
        return turns, [*jobs, *await waits]

    turns, jobs = asyncio.run(main())
    assert turns >= 100
    assert len({job.id for job in jobs}) == 150


def test_aspawn_tells_what_the_broker_answers(shared: Rig) -> None:
    async def main() -> None:
        job = await unbounded.aspawn(1)
        assert job.cold_start is True
        for number in range(10):
            await narrow.aspawn(number)
        with pytest.raises(QueueFull):
            await narrow.aspawn(10)

    asyncio.run(main())
    assert narrow.queue.purge() == 10


# -- of a map ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [True, False])
def test_a_map_waits_for_room_in_a_full_queue(shared: Rig, order: bool) -> None:
    shared.worker(narrow)
    values = list(narrow.map(range(14, 214), order=order, progress=False))
    assert (values if order else sorted(values)) == list(range(14, 214))


def test_a_map_waits_for_room_that_others_take(shared: Rig) -> None:
    shared.register(narrow)
    narrow.queue.pause()
    for number in range(20, 30):
        narrow.spawn(number)
    values = iter(narrow.map([14, 15], progress=False))
    threading.Timer(0.3, narrow.queue.resume).start()
    shared.worker(narrow)
    assert list(values) == [14, 15]


def test_a_map_in_a_coroutine_waits_too_and_tells_other_errors(shared: Rig) -> None:
    shared.worker(narrow)

    async def main() -> list[object]:
        return [v async for v in narrow.map(range(100), return_exceptions=True, progress=False)]

    values = asyncio.run(main())
    assert type(values.pop(13)) is ValueError
    assert values == [n for n in range(100) if n != 13]
