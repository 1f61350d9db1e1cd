"""A blocking connection to the broker for processes that make few calls: command line, host agent, autoscaler.

Thread-safe; reconnects, loads the function library where it is missing, and sends again what had no answer
(every command is idempotent under resend).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from flashq.errors import BrokerRefused, BrokerUnreachable
from flashq.model.address import masked
from flashq.model.durability import Durability
from flashq.store.confirm import CONFIRMED, WAIT, unconfirmed
from flashq.store.keys import Keys
from flashq.store.line import REPLY_TIMEOUT_S, LibraryMissing, Line, pack, pack_all, pack_script, refusal
from flashq.store.reach import server_url
from flashq.store.scripts import Library, library
from flashq.store.server import look
from flashq.store.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from flashq.store.command import Command, Value

T = TypeVar("T")


class Broker:
    """The broker at `url`.

    `patience_s`: for how long a call keeps trying before BrokerUnreachable is raised. `reply_timeout_s`: after how
    long without an answer a connection counts as lost.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rq",
        patience_s: float = 5.0,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        scripts: Library | None = None,
    ) -> None:
        self.url = url
        self.keys = Keys(prefix)
        self.transitions = Transitions(self.keys)
        self.library = scripts or library()
        self.patience_s = patience_s
        self.durability: Durability | None = None
        """What submits have to survive; a broker that gives less is refused."""
        self._reply_timeout_s = reply_timeout_s
        self._line: Line | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Broker({masked(self.url)})"

    def close(self) -> None:
        with self._lock:
            if self._line is not None:
                self._line.close()
                self._line = None

    def connect(self) -> Line:
        """A new connection of its own for the caller; for loops that wait on a socket."""
        return Line(self.url, reply_timeout_s=self._reply_timeout_s)

    def run(self, command: Command[T]) -> T:
        """Carry out one command.

        Raises: BrokerUnreachable, BrokerRefused, BrokerError where its answer cannot be read.
        """
        packed = pack_script(command, self.library)
        if self.durability is not Durability.REPLICA or command.script not in CONFIRMED:
            return command.answer(self._exchange(packed))
        reply, replicas = self._exchange_all(packed + WAIT, 2)
        if not replicas:
            raise unconfirmed()
        return command.answer(reply)

    def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Carry out several commands in one round trip; the answers in the same order."""
        if not commands:
            return []
        replies = self._exchange_all(pack_all(commands, self.library), len(commands))
        return [c.answer(r) for c, r in zip(commands, replies, strict=True)]

    def execute(self, *parts: Value) -> Any:
        """One plain command of the server; for reads."""
        return self._exchange(pack(*parts))

    def execute_all(self, requests: Sequence[Sequence[Value]]) -> list[Any]:
        """Several plain commands in one round trip; for reads."""
        if not requests:
            return []
        return self._exchange_all(b"".join(pack(*r) for r in requests), len(requests))

    def read_all(self, requests: Sequence[Sequence[Value]]) -> list[Any]:
        """Like `execute_all`; None for a key that is of another type than it should be."""
        if not requests:
            return []
        return self._exchange_all(b"".join(pack(*r) for r in requests), len(requests), strangers=True)

    def redis(self) -> redis.Redis:
        """A redis-py client of the server that is the broker now, for RQ's own API and for blocking reads."""
        import redis  # 20 MB, and 150 ms: nothing of ours needs it

        return redis.Redis.from_url(server_url(self.url), protocol=2)

    def _connected(self) -> Line:
        line = Line(self.url, reply_timeout_s=self._reply_timeout_s)
        if self.durability is not None and (lack := look(line).lacks(self.durability)):
            line.close()
            raise BrokerRefused(lack)
        return line

    def _exchange(self, packed: bytes) -> Any:
        return self._exchange_all(packed, 1)[0]

    def _exchange_all(self, packed: bytes, count: int, *, strangers: bool = False) -> list[Any]:
        deadline = time.monotonic() + self.patience_s
        pause = 0.02
        while True:
            try:
                with self._lock:
                    if self._line is None:
                        self._line = self._connected()
                    return _round_trip(self._line, packed, count, strangers=strangers)
            except LibraryMissing:
                with self._lock:
                    if self._line is not None:
                        load(self._line, self.library)
            except BrokerUnreachable:
                self.close()
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 0.5)


def _round_trip(line: Line, packed: bytes, count: int, *, strangers: bool = False) -> list[Any]:
    """`strangers`: a key of the wrong type, which somebody else wrote, is None and no error."""
    line.send(packed)
    replies = [line.read() for _ in range(count)]
    for index, reply in enumerate(replies):
        if isinstance(reply, hiredis.ReplyError):
            if not (strangers and str(reply).startswith("WRONGTYPE")):
                raise refusal(reply)
            replies[index] = None
    return replies


def load(line: Line, scripts: Library) -> None:
    """Load the function library; harmless where it is loaded already.

    Raises BrokerRefused where this user may not.
    """
    try:
        line.call(pack("FUNCTION", "LOAD", "REPLACE", scripts.source))
    except BrokerRefused as error:
        if "NOPERM" not in str(error):
            raise
        raise BrokerRefused(
            f"the broker lacks flashq's functions ({scripts.name}), and this user may not load them: run"
            " `flashq doctor --load` as one who may (`flashq keys acl admin` makes one)"
        ) from None
