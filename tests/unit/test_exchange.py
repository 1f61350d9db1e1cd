"""A worker's exchange with the broker: what is said in which order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from flashq.errors import BrokerRefused
from flashq.model.envelope import Header
from flashq.model.keyring import Direction
from flashq.store.keys import Keys
from flashq.store.records import Claimed
from flashq.store.scripts import library
from flashq.store.transitions import Transitions
from flashq_worker.assignment import Assignment
from flashq_worker.exchange import Exchange
from flashq_worker.hand import Hand
from flashq_worker.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq_worker.config import WorkerConfig
    from flashq_worker.exchange import Events

OUT_OF_MEMORY = BrokerRefused("OOM command not allowed when used memory > 'maxmemory'")


class Sent:
    """In the place of the stream: what is sent, which the test answers."""

    line = None

    def __init__(self) -> None:
        self.commands: list[tuple[bytes, Callable[[Any, Exception | None], None]]] = []

    def add(self, command: Command[Any], callback: Callable[[Any, Exception | None], None]) -> None:
        self.commands.append((cast("bytes", command.args[5]), callback))

    def taken(self) -> list[bytes]:
        return [chunk for chunk, _ in self.commands]

    def answer(self, answer: Any, error: Exception | None = None) -> None:
        """Answer the oldest."""
        self.commands.pop(0)[1](answer, error)


def test_no_chunk_overtakes_one_that_was_refused() -> None:
    keys = Keys()
    broker = SimpleNamespace(transitions=Transitions(keys), library=library(), keys=keys)
    config = cast("WorkerConfig", SimpleNamespace(worker="w", endpoint="e", lease_s=15.0, home=Path("/")))
    heard: list[tuple[str, int, int]] = []
    events = SimpleNamespace(on_taken=lambda *taken: heard.append(taken))
    exchange = Exchange(cast("Broker", broker), config, Hand(), Pace(), cast("Events", events))
    sent = Sent()
    exchange._stream = sent  # type: ignore[assignment]
    held, other = assignment("e-1"), assignment("e-2")

    # Given chunks of which the broker has no memory for the second: what is yielded next waits behind it
    for number in (1, 2):
        exchange.chunk(held, number, b"%d" % number)
    sent.answer(("ok", 0))
    sent.answer(None, OUT_OF_MEMORY)
    exchange.chunk(held, 3, b"3")
    exchange.chunk(other, 1, b"another job's")
    assert sent.taken() == [b"another job's"]
    sent.answer(("ok", 0))

    # If it is tried again, expect both in their order
    exchange._say_again()
    assert sent.taken() == [b"2", b"3"]
    for _ in range(2):
        sent.answer(("ok", 0))
    assert not exchange._refused
    assert len(heard) == 4


def assignment(job: str) -> Assignment:
    header = Header(direction=Direction.CALL, endpoint="e", job=job)
    claimed = Claimed(job, 1, b"", "r", 0, 1, 0, 0, cold=False, retries_used=0)
    return Assignment(claimed, header, b"", "")
