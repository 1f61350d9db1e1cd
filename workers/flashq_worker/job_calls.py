"""What the jobs of a worker call: asked of the host agent, answered to the executor; their place is lent meanwhile.

See decision 0029. Driven by `execution`; nothing here waits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flashq_worker.executor.frames import FrameType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq_worker.assignment import Assignment
    from flashq_worker.calls_link import CallsLink, Under
    from flashq_worker.exchange import Exchange
    from flashq_worker.executor.frames import Frame
    from flashq_worker.hand import Hand
    from flashq_worker.runtime import Runtime

FRAMES = (FrameType.CALL, FrameType.DROP, FrameType.WAITING)
_LEND_AFTER_S = 0.01  # what is called and warm answers sooner, and nobody needs a place for it


class JobCalls:
    """`link`: the way to the host agent; None: nothing can be called."""

    def __init__(self, link: CallsLink | None, hand: Hand, runtime: Runtime, exchange: Exchange) -> None:
        self._link = link
        self._hand = hand
        self._runtime = runtime
        self._exchange = exchange
        self._lending = False  # whether the broker was told that all that runs here waits
        self._waits_since: float | None = None  # when that began

    # -- what to wait on -----------------------------------------------------------------------------
    def readers(self) -> list[int]:
        """`receive` is due when one is ready."""
        return [] if self._link is None else self._link.readers()

    def writers(self) -> list[int]:
        """The same."""
        return [] if self._link is None else self._link.writers()

    @property
    def congested(self) -> bool:
        """Whether so much is on its way to the host agent that no more should be taken from the executor."""
        return self._link is not None and self._link.congested

    @property
    def due_at(self) -> float:
        """When to `lend` though nothing happens; infinity where that is of no use."""
        if self._waits_since is None or self._lending:
            return float("inf")
        return self._waits_since + _LEND_AFTER_S

    # -- from the executor ---------------------------------------------------------------------------
    def on_frame(self, held: Assignment, frame: Frame) -> None:
        """A job calls an endpoint, wants what it called stopped, or waits for that."""
        if frame.type is FrameType.WAITING:
            held.waiting = frame.meta["waiting"]
        elif frame.type is FrameType.DROP:
            if self._link is not None:
                self._link.drop((held.job, held.fence), frame.meta["call"])
        elif refusal := self._refusal(frame.meta["endpoint"]):
            self._reply(frame.meta["call"], {"what": "refused", **refusal})
        elif self._link is not None:
            self._link.call(held, frame)

    def _refusal(self, endpoint: str) -> dict[str, str]:
        """Why a job may not call this endpoint; empty: it may."""
        if self._link is None or not self._link.open:
            why = (
                "this worker has no host agent that signs calls: it was started by hand;"
                f" {endpoint[:80]}.local(…) runs the function right there"
            )
        elif endpoint not in self._runtime.calls:
            why = (
                f"its code does not refer to an endpoint {endpoint!r:.80}, by a name at the top of a module or of its"
                " own: such a call from inside a job is not signed"
            )
        elif self._link.full:
            return {"error": "SubmitError", "message": "too many calls of this worker's jobs are under way"}
        else:
            return {}
        return {"error": "UnsupportedCall", "message": why}

    def ended(self, held: Assignment, *, stopped: bool) -> None:
        """A job has ended; where it was `stopped`, so is what it called and did not spawn."""
        if self._link is not None:
            self._link.ended((held.job, held.fence), stopped=stopped)

    # -- from the host agent -------------------------------------------------------------------------
    def receive(self, ready: set[int]) -> None:
        """Take in what became of calls, where its descriptor is among these."""
        if self._link is not None and not ready.isdisjoint(self._link.readers()):
            for under, meta, blob in self._link.receive():
                self._on_reply(under, meta, blob)

    def _on_reply(self, under: Under, meta: Mapping[str, Any], blob: bytes) -> None:
        held = self._hand.running.get(under.run[0])
        if held is not None and held.fence == under.run[1]:
            self._reply(under.number, meta, blob)

    def _reply(self, number: int, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        if self._runtime.process is not None:
            self._runtime.process.reply({**meta, "call": number}, blob)

    # -- the place -----------------------------------------------------------------------------------
    def lend(self) -> None:
        """Tell the broker where all that runs here waits for what it called: others may have its place meanwhile."""
        if self._link is None:
            return
        now, current = time.monotonic(), self._hand.current
        self._link.keep_only({(held.job, held.fence) for held in current})
        if len(current) < self._hand.concurrency or not all(held.waiting for held in current):
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        lends = self._waits_since is not None and now >= self._waits_since + _LEND_AFTER_S
        if lends != self._lending:
            self._lending = lends
            self._exchange.lend(lends)
