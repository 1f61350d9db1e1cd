"""Connections that send the head of a request in time, or are closed: those that say nothing keep nobody else out.

`uvicorn` bounds how long a connection may be idle after an answer, and no more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEAD_S = 10.0
"""From the connection, or from the first byte of a further request, until all of the head is there."""


class Prompt(H11Protocol):
    """HTTP/1.1, for `uvicorn.Config(http=…)`."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect()
        else:
            self._expected()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expected()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def _expected(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
