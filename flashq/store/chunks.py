"""Reads what a job yields, as it comes, over a connection of its own: a reader waits on the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq.store.command import text
from flashq.store.line import REPLY_TIMEOUT_S, Line, pack
from flashq.store.memory import MemoryBroker

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_AT_ONCE = 64
_MEMORY_PAUSE_S = 0.005


class Chunk(NamedTuple):
    """One value, signed. `fence`: which run of the job yielded it."""

    fence: int
    number: int
    raw: bytes


class Chunks:
    """The chunks of one job. Use from one thread at a time."""

    def __init__(self, broker: Broker, job: str) -> None:
        self._broker = broker
        self._key = broker.keys.of("chunks", job)
        self._line: Line | None = None

    def after(self, fence: int, number: int, wait_s: float) -> list[Chunk]:
        """What comes after this one, waited for so long if there is nothing yet; 0: not at all.

        Raises: BrokerUnreachable, after which it may be asked again, BrokerRefused.
        """
        block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s else ()
        request = ("XREAD", "COUNT", _AT_ONCE, *block, "STREAMS", self._key, f"{fence}-{number}")
        if isinstance(self._broker, MemoryBroker):  # it has no server to wait on
            found = _chunks(self._broker.execute("XREAD", "COUNT", _AT_ONCE, "STREAMS", *request[-2:]))
            if not found:
                time.sleep(min(wait_s, _MEMORY_PAUSE_S))
            return found
        if self._line is None:
            self._line = self._broker.connect()
        try:
            return _chunks(self._line.call(pack(*request), wait_s + REPLY_TIMEOUT_S))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._line is not None:
            self._line.close()
            self._line = None


def _chunks(reply: Any) -> list[Chunk]:
    found = []
    for _, rows in reply or ():
        for entry, fields in rows:
            fence, _, number = text(entry).partition("-")
            found.append(Chunk(int(fence), int(number), bytes(fields[1])))
    return found
