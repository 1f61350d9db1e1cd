"""The keeper's own connection to its broker, and what it asks there: mostly about what an earlier run left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable
from flashq.store import held
from flashq.store.bare import BareConnection
from flashq.store.keys import HELD, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BrokerLine:
    """Blocking. Raises BrokerUnreachable and BrokerRefused as its connection does."""

    def __init__(self, connection: BareConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._call = connection.call

    @classmethod
    def dial(cls, path: Path, *, password: str, prefix: str) -> Self | None:
        """A connection to the broker on this socket; None where it does not answer (yet)."""
        try:
            connection = BareConnection(path, password=password)
        except BrokerUnreachable:
            return None
        try:
            connection.call("PING")
        except BrokerUnreachable:  # it is loading its data
            connection.close()
            return None
        return cls(connection, Keys(prefix))

    def close(self) -> None:
        self._connection.close()

    def listen(self, address: str, port: int) -> None:
        """Let the broker answer on the network too. Raises BrokerError where it cannot."""
        try:
            self._call("CONFIG", "SET", "bind", address)
            self._call("CONFIG", "SET", "port", port)
        except BrokerRefused as error:
            raise BrokerError(f"the broker cannot listen on {address} port {port}: {error}") from None

    # -- what an earlier run left --------------------------------------------------------------------
    def restart(self) -> None:
        """Where all hosts and workers ended with the last run: free what they held, forget them."""
        for host in self._call("ZRANGE", self._keys.of("hosts"), 0, -1):
            self._call("DEL", self._keys.of("host", host.decode()), self._keys.of("commands", host.decode()))
        self._call("DEL", self._keys.of("hosts"))
        for endpoint in self._endpoints():
            self._connection.run(held.restart(self._keys, endpoint))

    def hold(self) -> None:
        """Set aside what waits on every queue."""
        for endpoint in self._endpoints():
            self._connection.run(held.hold(self._keys, endpoint))

    def release(self) -> int:
        """Put every held job back where it waited; how many."""
        total = 0
        for endpoint in self._holding():
            looked = held.AT_ONCE
            while looked >= held.AT_ONCE:
                looked, back = self._connection.run(held.unhold(self._keys, endpoint))
                total += back
        return total

    def count_held(self) -> int:
        """How many jobs of earlier runs are set aside."""
        return sum(self._waiting(held.held_queue(endpoint)) for endpoint in self._holding())

    def count_unfinished(self) -> int:
        """How many jobs wait or run, those set aside included."""
        total = self.count_held()
        for endpoint in self._endpoints():
            total += self._call("ZCARD", self._keys.of("leases", endpoint))
            for queue in self._call("ZRANGE", self._keys.of("endpoint_queues", endpoint), 0, -1):
                total += self._waiting(queue.decode())
        return total

    def _waiting(self, queue: str) -> int:
        now: int = self._call("LLEN", self._keys.of("queue", queue))
        later: int = self._call("ZCARD", self._keys.of("scheduled", queue))
        return now + later

    def _endpoints(self) -> Iterator[str]:
        return self._members(self._keys.of("endpoints"))

    def _holding(self) -> list[str]:
        """Endpoints of which jobs are held; they need not be registered any more."""
        prefix = self._keys.of("queue")
        queues = [key.removeprefix(prefix) for key in self._members(self._keys.of("queues"))]
        return [queue.removesuffix(HELD) for queue in queues if queue.endswith(HELD)]

    def _members(self, key: str) -> Iterator[str]:
        for member in sorted(self._call("SMEMBERS", key)):
            yield member.decode()
