"""How much of a process's calls may be on their way to the broker at once: so a slow broker costs bounded memory.

What has been submitted and not been answered takes room. Where there is none, threads block and coroutines await,
first come, first served.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from flashq.job import Reply

MOST_CALLS = 10_000
MOST_BYTES = 256 << 20


class _Waiter(NamedTuple):
    size: int
    granted: Reply[None]


class Room:
    """Room for so many calls and bytes. One call, however large, always fits by itself."""

    def __init__(self, most_calls: int = MOST_CALLS, most_bytes: int = MOST_BYTES) -> None:
        self._most_calls, self._most_bytes = most_calls, most_bytes
        self._calls = self._bytes = 0
        self._waiters: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    def _fits(self, size: int) -> bool:
        return self._calls == 0 or (self._calls < self._most_calls and self._bytes + size <= self._most_bytes)

    def _add(self, size: int) -> None:
        self._calls += 1
        self._bytes += size

    def try_take(self, size: int) -> bool:
        """Take room for a call of this size, if there is any and nobody waits for it."""
        with self._lock:
            if self._waiters or not self._fits(size):
                return False
            self._add(size)
            return True

    def take(self, size: int) -> None:
        """The same, blocking until there is."""
        if self.try_take(size):
            return
        waiter = self._queue(size)
        try:
            waiter.granted.wait()
        except BaseException:
            self._give_up(waiter)
            raise

    async def atake(self, size: int) -> None:
        """The same, for coroutines."""
        if self.try_take(size):
            return
        waiter = self._queue(size)
        try:
            await waiter.granted.until_done()
        except BaseException:
            self._give_up(waiter)
            raise

    def give_back(self, size: int) -> None:
        """A call of this size was answered."""
        with self._lock:
            self._calls -= 1
            self._bytes -= size
        self._grant()

    def _queue(self, size: int) -> _Waiter:
        waiter = _Waiter(size, Reply())
        with self._lock:
            self._waiters.append(waiter)
        self._grant()  # what was given back between the try and now
        return waiter

    def _grant(self) -> None:
        granted = []
        with self._lock:
            while self._waiters and self._fits(self._waiters[0].size):
                waiter = self._waiters.popleft()
                self._add(waiter.size)
                granted.append(waiter)
        for waiter in granted:
            waiter.granted.set(None)

    def _give_up(self, waiter: _Waiter) -> None:
        """It was interrupted while it waited: what it got meanwhile is for the next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return
        self.give_back(waiter.size)
