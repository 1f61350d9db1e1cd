"""A worker's line to its host agent for the calls that its jobs make: frames, sent and received without waiting.

A CALL that goes this way has a number of the worker's, and says of which job of which revision it is. The worker asks;
the host agent, which has the keys for it, judges and signs (see `host.calls`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq_worker.executor import frames
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameType

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flashq_worker.assignment import Assignment

MOST_CALLS = 10_000
"""Calls of one worker's jobs that have not ended."""
_CONGESTED_BYTES = 1 << 23
Run = tuple[str, int]  # a job and its fence


class Under(NamedTuple):
    """A call under way: whose, which number it has there, and whether it goes on where that job is stopped."""

    run: Run
    number: int
    detached: bool


class CallsLink:
    """`descriptor`: this end, which becomes the link's. `limit`: bytes of one call's arguments, or one result."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._sock: socket.socket | None = socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        os.set_inheritable(descriptor, False)
        self._decoder = FrameDecoder(limit + 2 * frames.MAX_META_BYTES)
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._last = 0
        self._under_way: dict[int, Under] = {}

    def readers(self) -> list[int]:
        """What to wait on for reading: `receive` is due then."""
        return [] if self._sock is None else [self._sock.fileno()]

    def writers(self) -> list[int]:
        """What to wait on for writing: `flush` is due then."""
        return [] if self._sock is None or not self._unsent else [self._sock.fileno()]

    @property
    def open(self) -> bool:
        """Whether anybody is at the other end."""
        return self._sock is not None

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that no more should be taken from the executor."""
        return self._unsent_bytes > _CONGESTED_BYTES

    @property
    def full(self) -> bool:
        """Whether as many calls are under way as may be."""
        return len(self._under_way) >= MOST_CALLS

    def call(self, held: Assignment, frame: Frame) -> None:
        """Pass on what a job calls."""
        meta = frame.meta
        self._last += 1
        self._under_way[self._last] = Under((held.job, held.fence), meta["call"], meta["detached"])
        said: dict[str, Any] = {name: meta[name] for name in ("endpoint", "target", "options")}
        said |= {"call": self._last, "parent": held.job, "depth": held.header.depth + 1}
        said |= {"detached": meta["detached"], "revision": held.claimed.revision}
        self._send(FrameType.CALL, said, frame.blob)

    def drop(self, run: Run, number: int) -> None:
        """A job wants what it called stopped; how that ends it will be told."""
        for ours, under in self._under_way.items():
            if (under.run, under.number) == (run, number):
                self._send(FrameType.DROP, {"call": ours, "forget": False})
                return

    def ended(self, run: Run, *, stopped: bool) -> None:
        """A job has ended. Where it was `stopped`, so is what it called and waited for."""
        for ours in [ours for ours, under in self._under_way.items() if under.run == run]:
            under = self._under_way.pop(ours)
            if stopped and not under.detached:
                self._send(FrameType.DROP, {"call": ours, "forget": True})

    def keep_only(self, runs: Collection[Run]) -> None:
        """Whatever else had calls under way was stopped."""
        for run in {under.run for under in self._under_way.values()} - set(runs):
            self.ended(run, stopped=True)

    def receive(self) -> list[tuple[Under, Mapping[str, Any], bytes]]:
        """What became of calls: whose, meta, blob."""
        self.flush()
        told: list[tuple[Under, Mapping[str, Any], bytes]] = []
        if self._sock is None:
            return told
        try:
            received = self._decoder.receive(self._sock)
        except BlockingIOError:
            return told
        except (EOFError, OSError, frames.FrameError):
            self._sock.close()
            self._sock = None
            lost = {"what": "refused", "error": "BrokerError", "message": "the host agent is gone"}
            told = [(under, lost, b"") for under in self._under_way.values()]
            self._under_way.clear()
            return told
        for frame in received:
            ours, over = frame.meta["call"], frame.meta["what"] != "accepted"
            under = self._under_way.pop(ours, None) if over else self._under_way.get(ours)
            if under is not None:
                told.append((under, frame.meta, frame.blob))
        return told

    def flush(self) -> None:
        """Send what is still to be sent, as far as it goes without waiting."""
        with contextlib.suppress(OSError):
            while self._unsent and self._sock is not None:
                count = self._sock.send(self._unsent[0])
                self._unsent_bytes -= count
                if count < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][count:]
                else:
                    self._unsent.popleft()

    def _send(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        for piece in frames.pieces(kind, meta, blob):
            self._unsent.append(memoryview(piece))
            self._unsent_bytes += len(piece)
        self.flush()
