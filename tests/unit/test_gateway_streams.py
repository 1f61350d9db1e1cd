"""Readers of what jobs yield, by HTTP: one at a time for a job, however they come and go."""

from __future__ import annotations

import asyncio
from typing import Any

from flashq.gateway.streams import Piece, Streams


class _Slow(Streams):
    """Its reads take a while, and are counted."""

    def __init__(self) -> None:
        super().__init__(core=None)  # type: ignore[arg-type]
        self.now = self.most = self.reads = 0

    async def _take(self, job: str, endpoint: str, wait_s: float) -> list[Piece]:
        self.now += 1
        self.reads += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(wait_s)
        self.now -= 1
        return []


def test_values_go_to_one_reader_at_a_time_however_many_follow() -> None:
    """Given readers that wait for each other, and others that come as one is done, expect no two to read at once."""
    streams = _Slow()

    async def read() -> None:
        for _ in range(3):
            await streams.take("job", "endpoint", 0.001)

    async def all_of_them() -> None:
        await asyncio.gather(*(read() for _ in range(10)))

    asyncio.run(all_of_them())
    streams.close()
    assert (streams.most, streams.reads) == (1, 30)


def test_a_reader_without_room_to_wait_does_not_ask_all_the_time() -> None:
    streams = _Slow()

    class Never:
        done = False

    async def follow(ended: Any) -> None:
        async for _ in streams.until_end("job", "endpoint", ended):
            pass

    async def full() -> None:
        take = streams.take
        streams.take = lambda job, endpoint, wait_s: take(job, endpoint, 0.0)  # type: ignore[method-assign]
        following = asyncio.ensure_future(follow(Never()))
        await asyncio.sleep(0.5)
        following.cancel()

    asyncio.run(full())
    streams.close()
    assert streams.reads < 5
