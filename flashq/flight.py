"""The calls of a `map` that are under way or wait to be taken: at most so many, in order or as they end.

What the broker refused because the queue is full waits here to be made again: after a pause that grows while
nothing helps, and no more at once than were accepted when it was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from flashq.errors import QueueFull
from flashq.job import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

_PAUSE_S = (0.01, 1.0)  # before a refused call is made again: the first time, and at most


class PlannedCall:
    """One call of the map: its arguments for as long as it may have to be made again, and its job."""

    __slots__ = ("args", "job")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self.job: EndpointJob[Any] | None = None


class Flight:
    """At most `most` calls. Driven by one thread or task; jobs land from the client's I/O thread."""

    def __init__(self, most: int, order: bool) -> None:
        self.most = most
        self._order = order
        self._calls: dict[PlannedCall, None] = {}  # in the order of the input
        self._head: PlannedCall | None = None  # whose landing is waited for, where it goes by order
        self._landed: deque[tuple[PlannedCall, EndpointJob[Any]]] = deque()
        self._ended: deque[PlannedCall] = deque()  # where it does not go by order
        self._refused: deque[PlannedCall] = deque()
        self._exhausted = False  # no input is left
        self._flying = 0  # submitted and not ended
        self._allowed = most  # how many may fly: fewer where more were refused
        self._pause_s = _PAUSE_S[0]
        self._resume_at = 0.0
        self._woken: Reply[None] = Reply()

    @property
    def empty(self) -> bool:
        return not self._calls

    # -- making calls --------------------------------------------------------------------------------
    def next_call(self, inputs: Iterator[tuple[Any, ...]]) -> PlannedCall | None:
        """The call to be made next: one that was refused before a new one. None: nothing now."""
        left_s = self._due_s()
        if left_s is None or left_s > 0:
            return None
        if self._refused:
            return self._refused.popleft()
        args = next(inputs, None)
        if args is None:
            self._exhausted = True
            return None
        call = PlannedCall(args)
        self._calls[call] = None
        return call

    def add(self, call: PlannedCall, job: EndpointJob[Any]) -> None:
        """It was submitted."""
        call.job = job
        self._flying += 1
        job._call.ended.on_done(lambda: self._land(call, job))  # noqa: SLF001 — a part of the SDK

    def _land(self, call: PlannedCall, job: EndpointJob[Any]) -> None:
        self._landed.append((call, job))
        held_up = self._allowed < self.most  # then any landing makes room for a call, perhaps the head's
        if held_up or not self._order or call is self._head or _is_refused(job):
            self._woken.set(None)

    def _take_in(self) -> None:
        """What has landed: ended, or refused because the queue is full."""
        while self._landed:
            call, job = self._landed.popleft()
            self._flying -= 1
            if _is_refused(job):
                self._put_off(call)
                continue
            self._pause_s = _PAUSE_S[0]
            if not self._refused:
                self._allowed = min(self._allowed + 1, self.most)
            if not self._order:
                self._ended.append(call)

    def _put_off(self, call: PlannedCall) -> None:
        now = time.monotonic()
        if now >= self._resume_at:  # the first of a wave: the others were refused with it
            self._resume_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])
        self._refused.append(call)
        self._allowed = max(1, self._flying)

    def _due_s(self) -> float | None:
        """In how many seconds the next call may be made; None: not before another has ended, or been taken."""
        self._take_in()
        if self._flying >= self._allowed:
            return None
        if self._refused:
            return max(0.0, self._resume_at - time.monotonic())
        return None if self._exhausted or len(self._calls) >= self.most else 0.0

    # -- taking jobs ---------------------------------------------------------------------------------
    @property
    def ready(self) -> bool:
        """Whether the next one can be taken without waiting."""
        self._take_in()
        if not self._order:
            return bool(self._ended)
        head = self._head = next(iter(self._calls), None)
        return head is not None and head.job is not None and head.job.done and not _is_refused(head.job)

    def pop(self) -> EndpointJob[Any]:
        """The next one; only where it is ready."""
        call = next(iter(self._calls)) if self._order else self._ended.popleft()
        del self._calls[call]
        assert call.job is not None
        return call.job

    def wait(self) -> bool:
        """Block until the next one is ready, or another call may be made: whether it is ready."""
        while not self.ready:
            left_s = self._due_s()
            if left_s == 0:
                return False
            self._woken.wait(left_s)
            self._woken = Reply()
        return True

    async def await_(self) -> bool:
        """The same for coroutines."""
        while not self.ready:
            left_s = self._due_s()
            if left_s == 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._woken.until_done()
            self._woken = Reply()
        return True

    def cancel(self) -> None:
        """Cancel what has not ended."""
        for call in self._calls:
            if call.job is not None and not call.job.done:
                call.job.cancel()
        self._calls.clear()


def _is_refused(job: EndpointJob[Any]) -> bool:
    return isinstance(job._call.ended.error, QueueFull)  # noqa: SLF001
