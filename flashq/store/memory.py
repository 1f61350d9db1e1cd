"""A broker inside this process, for tests: the same scripts on fakeredis, no server and no socket.

What it cannot show: durability, blocking, concurrency between processes. `flashq.testing` builds on it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from flashq.store.keys import Keys
from flashq.store.scripts import CLOCK, plain
from flashq.store.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.command import Command, Value

T = TypeVar("T")


class MemoryBroker:
    """Like `Broker`, in memory. Needs the package fakeredis with its Lua extra.

    `clock` is a Lua expression giving {seconds, microseconds}, for tests that turn the clock themselves.
    """

    url = "memory://"

    def __init__(self, *, prefix: str = "rq", clock: str = CLOCK) -> None:
        try:
            import fakeredis
            import lupa  # type: ignore[import-untyped] # noqa: F401 — what fakeredis runs scripts with, and leaves out where it is missing
        except ImportError as error:
            raise ImportError(
                f"the broker in memory needs {error.name}: pip install '.[testing]' in a clone of flashq",
                name=error.name,
            ) from None

        self._clock = clock
        self.keys = Keys(prefix)
        self.transitions = Transitions(self.keys)
        server = fakeredis.FakeServer()
        self._redis = fakeredis.FakeRedis(server=server, protocol=2)
        self._plain = fakeredis.FakeRedis(server=server, protocol=2)
        self._plain.response_callbacks.clear()  # replies as a server sends them
        self._lock = threading.RLock()

    def run(self, command: Command[T]) -> T:
        """Carry out one command.

        Raises: BrokerRefused.
        """
        import redis

        from flashq.store.line import refusal

        with self._lock:
            try:
                reply = self._redis.eval(plain(command.script, self._clock), 1, command.key, *command.args)
            except redis.RedisError as error:
                raise refusal(error) from None
        return command.answer(_as_bytes(reply))

    def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Carry out several commands."""
        return [self.run(command) for command in commands]

    def execute(self, *parts: Value) -> Any:
        """One plain command; for reads."""
        with self._lock:
            return self._plain.execute_command(*parts)  # type: ignore[no-untyped-call]

    def execute_all(self, requests: Sequence[Sequence[Value]]) -> list[Any]:
        """Several plain commands; for reads."""
        return [self.execute(*request) for request in requests]

    def redis(self) -> Any:
        """The redis-py client behind it."""
        return self._redis

    def close(self) -> None:
        self._redis.close()
        self._plain.close()


def _as_bytes(reply: Any) -> Any:
    """As a server answers: strings are bytes, whatever the fake made of them."""
    if isinstance(reply, list):
        return [_as_bytes(item) for item in reply]
    return reply.encode() if isinstance(reply, str) else reply
