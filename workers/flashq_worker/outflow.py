"""What a job yields on its way to its reader: how much of it there may be that nobody has read. Pure.

The executor sends chunks while it has credit; a large one costs more. It begins with a little, and is given back what
a chunk cost as long as less than `MOST_UNREAD` of them (and `MOST_UNREAD_BYTES`) wait in the broker; else once a reader
has taken some. So a stream that nobody reads stops its function, and takes bounded memory: `MOST_UNREAD_BYTES`, as
many MiB as `FIRST_CREDIT`, and one value.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flashq_worker.executor.frames import chunk_cost

FIRST_CREDIT = 16
MOST_UNREAD = 256
MOST_UNREAD_BYTES = 16 * 2**20


@dataclass(slots=True)
class Outflow:
    """The chunks of one run of a job."""

    count: int = 0
    """How many it has yielded."""
    _unread: deque[tuple[int, int]] = field(default_factory=deque)  # number and size of each
    _unread_bytes: int = 0
    _owed: int = 0

    def yielded(self, size: int) -> int:
        """It yielded a chunk of so many bytes: its number, from 1."""
        self.count += 1
        self._unread.append((self.count, size))
        self._unread_bytes += size
        self._owed += chunk_cost(size)
        return self.count

    def taken(self, number: int) -> None:
        """A reader has everything up to this number."""
        while self._unread and self._unread[0][0] <= number:
            self._unread_bytes -= self._unread.popleft()[1]

    def grant(self) -> int:
        """How much credit it is to be given now; it is given thereby."""
        if len(self._unread) >= MOST_UNREAD or self._unread_bytes >= MOST_UNREAD_BYTES:
            return 0
        owed, self._owed = self._owed, 0
        return owed
