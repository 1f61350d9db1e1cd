"""A list in the broker that one process waits on, over a connection of its own, from a loop that selects.

The blocking pop has a short life and is renewed, so that a connection that died without a word is noticed.
What is popped while the connection breaks is lost: whoever pushes must not depend on its being read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flashq.errors import BrokerUnreachable
from flashq.store.line import Line, pack

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_POP_S = 5.0


class Inbox:
    """The list at `key`, read from its left end."""

    def __init__(self, broker: Broker, key: str) -> None:
        self._broker = broker
        self._key = key
        self._line: Line | None = None
        self._asked_at = 0.0

    @property
    def open(self) -> bool:
        """Whether it is connected, as far as is known."""
        return self._line is not None

    def fileno(self) -> int:
        """The descriptor to wait on. Raises BrokerUnreachable while not `open`."""
        return self._connected().fileno()

    def connect(self) -> None:
        """Connect and begin to wait. Raises: BrokerError."""
        self.close()
        line = Line(self._broker.url)
        self._ask(line)
        self._line = line

    def close(self) -> None:
        """Stop waiting; `connect` begins anew."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _connected(self) -> Line:
        if self._line is None:
            raise BrokerUnreachable(f"not waiting on {self._key}")
        return self._line

    def _ask(self, line: Line) -> None:
        line.send(pack("BLPOP", self._key, _POP_S))
        self._asked_at = time.monotonic()

    def take(self) -> list[bytes]:
        """What has been pushed, without waiting; often nothing.

        Raises BrokerUnreachable (it is closed then) where the connection is lost, or silent for too long.
        """
        line = self._connected()
        values: list[bytes] = []
        try:
            for reply in line.receive():
                if isinstance(reply, Exception):
                    raise BrokerUnreachable(f"the broker ended the wait: {reply}")
                if reply is not None:
                    values.append(reply[1])
                self._ask(line)
        except BrokerUnreachable:
            self.close()
            if not values:
                raise
        if not values and time.monotonic() > self._asked_at + 2 * _POP_S:
            self.close()
            raise BrokerUnreachable("the broker has stopped answering")
        return values
