"""Room for calls on their way to a slow broker: bounded, first come first served, and not lost by who gives up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flashq.room import Room
from tests.rig import wait_until


class Taker:
    """A thread that takes room."""

    def __init__(self, room: Room, size: int) -> None:
        self.got = threading.Event()
        self._room, self._size = room, size
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        self._room.take(self._size)
        self.got.set()


@pytest.fixture
def room() -> Room:
    return Room(most_calls=2, most_bytes=100)


def waiting(room: Room, count: int) -> None:
    wait_until(lambda: len(room._waiters) == count, what=f"{count} wait")


def test_calls_and_bytes_are_bounded(room: Room) -> None:
    assert [room.try_take(size) for size in (60, 50, 40, 1)] == [True, False, True, False]
    room.give_back(60)
    assert room.try_take(60)


def test_one_call_fits_however_large(room: Room) -> None:
    assert room.try_take(10**9)
    assert not room.try_take(1)
    room.give_back(10**9)
    assert room.try_take(1)


def test_threads_get_room_in_the_order_they_asked(room: Room) -> None:
    assert room.try_take(50)
    assert room.try_take(50)
    first = Taker(room, 90)
    waiting(room, 1)
    second = Taker(room, 10)
    waiting(room, 2)

    room.give_back(50)  # there would be room for the second one
    assert not first.got.is_set()
    assert not second.got.is_set()
    assert not room.try_take(1)
    room.give_back(50)
    assert first.got.wait(10)
    assert second.got.wait(10)


def test_coroutines_await_room_and_the_loop_goes_on(room: Room) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        assert room.try_take(50)
        assert room.try_take(50)
        task = asyncio.create_task(room.atake(10))
        await asyncio.sleep(0)
        seen.append("the loop goes on")
        room.give_back(50)
        await task
        seen.append("it has room")
        return seen

    assert asyncio.run(main()) == ["the loop goes on", "it has room"]


@pytest.mark.parametrize("granted_first", [True, False])
def test_who_is_cancelled_while_waiting_leaves_no_room_taken(room: Room, granted_first: bool) -> None:
    async def main() -> None:
        assert room.try_take(60)
        task = asyncio.create_task(room.atake(60))
        await asyncio.sleep(0)
        if granted_first:  # in the same moment: it has the room, and will not come to know
            room.give_back(60)
            task.cancel()
        else:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not granted_first:
            room.give_back(60)
        assert room.try_take(100)

    asyncio.run(main())


def test_many_threads_take_and_give_back_what_they_took() -> None:
    room, most, seen = Room(most_calls=8, most_bytes=1000), 0, 0
    lock = threading.Lock()

    def work(size: int) -> None:
        nonlocal most, seen
        for _ in range(200):
            room.take(size)
            with lock:
                seen += 1
                most = max(most, room._calls)
            room.give_back(size)

    threads = [threading.Thread(target=work, args=(100 + n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (seen, room._calls, room._bytes) == (2400, 0, 0)
    assert most <= 8
