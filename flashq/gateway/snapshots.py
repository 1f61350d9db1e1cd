"""What viewers are shown, asked for once however many look, and how it was while anybody did.

An answer is asked of the broker when somebody wants it, at most every second, and more seldom where it takes the broker
long; while nobody looks, nothing is asked. So history begins when the first viewer came, and has gaps.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flashq.store.queries_dashboard import Now, look
from flashq.store.queries_fleet import WORKER_STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.gateway.core import Core

R = TypeVar("R")
EVERY_S = 1.0
KEPT = 600
_SHARE = 5
"""For how many times as long as it took an answer is taken: no more than a fifth of the broker's time goes here."""
_ANSWERS = 64  # that are held; the oldest goes
Point = tuple[int, ...]
"""Of an endpoint: how many wait, are in progress, and are workers in each of WORKER_STATES."""


@dataclass(slots=True)
class _Answer:
    task: asyncio.Task[Any]
    until: float = float("inf")


class Snapshots:
    """Of one gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._answers: OrderedDict[tuple[Any, ...], _Answer] = OrderedDict()
        self.history: deque[tuple[int, dict[str, Point]]] = deque(maxlen=KEPT)
        """When (ms), and how each endpoint stood."""
        self.questions = 0
        """How often the broker was asked."""

    async def now(self) -> Now:
        """All that there is, as of the last second. Raises BrokerError."""
        return await self.ask(look)

    async def ask(self, question: Callable[..., R], *args: Any) -> R:
        """`question(broker, *args)`, or what came of it less than a second ago."""
        key = (question, *args)
        known = self._answers.get(key)
        if known is None or time.monotonic() >= known.until:
            known = _Answer(asyncio.create_task(self._asked(question, args)))
            known.task.add_done_callback(_taken)
            self._answers[key] = known
            self._answers.move_to_end(key)
            while len(self._answers) > _ANSWERS:
                self._answers.popitem(last=False)
            begun = time.monotonic()
            known.task.add_done_callback(lambda _: _set_until(known, begun))
        result: R = await asyncio.shield(known.task)  # one viewer who goes away takes it from no other
        return result

    async def _asked(self, question: Callable[..., R], args: tuple[Any, ...]) -> R:
        self.questions += 1
        found = await self._core.ask(question, *args)
        if isinstance(found, Now):
            self.history.append((found.at_ms, _points(found)))
        return found


def _set_until(answer: _Answer, begun: float) -> None:
    answer.until = begun + max(EVERY_S, _SHARE * (time.monotonic() - begun))


def _taken(task: asyncio.Task[Any]) -> None:
    """Its error is for those who wait for it; where they have all gone, it is nobody's."""
    if not task.cancelled():
        task.exception()


def _points(now: Now) -> dict[str, Point]:
    found = {}
    for one in now.endpoints:
        queue = now.queues.get(one.name)
        found[one.name] = (
            queue.queued + queue.scheduled if queue else 0,
            queue.in_progress if queue else 0,
            *(getattr(one, state) for state in WORKER_STATES),
        )
    return found
