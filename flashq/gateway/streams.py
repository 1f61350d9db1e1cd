"""What a job yields, for readers that come by HTTP: each value is given to one of them once.

The place in a stream is the broker's: what was taken is gone from there, so that any gateway goes on where another
stopped.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from flashq import codec, errors
from flashq.store.chunks import Chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashq.gateway.core import Core
    from flashq.job import Reply

MOST_READERS = 64
"""Requests that wait for values at the same time; others find what is there."""
_LOOK_S = 0.2
"""How often those look."""


class Piece(NamedTuple):
    """One value. `id`: the run of the job that yielded it, and its number."""

    id: str
    value: Any


class Streams:
    """Readers of all requests."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._threads = ThreadPoolExecutor(MOST_READERS, "flashq-stream")
        self._waiting = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = (
            WeakValueDictionary()
        )  # those that somebody holds

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def take(self, job: str, endpoint: str, wait_s: float) -> list[Piece]:
        """What there is, waited for so long if there is nothing; nobody else gets it.

        Raises: EnvelopeError where somebody else wrote it, BrokerError.
        """
        lock = self._locks.setdefault(job, asyncio.Lock())
        async with lock:
            return await self._take(job, endpoint, wait_s if self._waiting < MOST_READERS else 0.0)

    async def _take(self, job: str, endpoint: str, wait_s: float) -> list[Piece]:
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            rows = await loop.run_in_executor(self._threads, self._read, job, wait_s)
        finally:
            self._waiting -= 1
        pieces = []
        keys = self._core.client.keyring
        for row in rows:
            opened = codec.open_chunk(
                row.raw, keys, endpoint=endpoint, job=job, fence=row.fence, number=row.number, call_digest=""
            )
            if opened.header.encoding != "json":
                raise errors.UnsupportedCall(
                    f"job {job} yields Python objects, since it was called from Python: read them there"
                )
            pieces.append(Piece(f"{row.fence}-{row.number}", codec.load_json(opened)))
        if rows:
            take = self._core.client.transitions.take(job, rows[-1].fence, rows[-1].number)
            told: Reply[str] = self._core.client.ask(take, lambda verdict: verdict)
            await told
        return pieces

    def _read(self, job: str, wait_s: float) -> list[Any]:
        chunks = Chunks(self._core.broker, job)
        try:
            return chunks.after(0, 0, wait_s)
        finally:
            chunks.close()

    async def until_end(self, job: str, endpoint: str, ended: Reply[Any]) -> AsyncIterator[Piece]:
        """All that it yields from now on, until `ended` and nothing is left."""
        while True:
            last = ended.done  # asked first: what was yielded until then is there
            began = time.monotonic()
            pieces = await self.take(job, endpoint, 0.0 if last else 1.0)
            for piece in pieces:
                yield piece
            if last and not pieces:
                return
            if not pieces and time.monotonic() - began < _LOOK_S:  # too many wait
                await asyncio.sleep(_LOOK_S)
