"""What there is at this moment, asked for once however many look, and how it was while anybody did."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from flashq.store.queries_now import Now, look

if TYPE_CHECKING:
    from flashq.gateway.core import Core

EVERY_S = 1.0
"""The broker is asked at most so often; never while nobody looks."""
KEPT = 600


class Snapshots:
    """Of one gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = asyncio.Lock()
        self._seen: Now | None = None
        self._at = float("-inf")
        self.history: deque[tuple[float, dict[str, tuple[int, int, int]]]] = deque(maxlen=KEPT)
        """When, and of each endpoint: how many wait, are in progress, and are workers."""

    async def now(self) -> Now:
        """As of the last second. Raises BrokerError."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._at >= EVERY_S:
                self._seen = await self._core.ask(look)
                self._at = time.monotonic()
                of = {
                    row.endpoint: (row.queued, row.in_progress, row.initializing + row.idle + row.running)
                    for row in self._seen.endpoints
                }
                self.history.append((self._seen.at.timestamp(), of))
            return self._seen
