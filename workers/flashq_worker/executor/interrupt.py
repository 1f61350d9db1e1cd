"""Interrupting the running job, and only that one, in an executor that runs one job at a time.

The supervisor sends a CANCEL frame and then SIGUSR1. Python runs the signal's handler in the main thread,
which is also the thread that runs jobs, between two bytecodes. The handler reads the frames that are there
and decides by the job and fence each CANCEL names:

    the job that is running   -> JobInterrupt is raised in it (unless it was only to be given back)
    a job not yet begun       -> dropped, and answered at once, while the running one goes on
    anything else             -> nothing: the job ended before the word came

(Where the signal comes too early to end a system call that the job is about to make, `watchdog` repeats it.)
So a signal never hits a job it was not meant for, however late it arrives, and a job answered as "skipped" has
not begun. What must not be interrupted halfway (taking a frame, sending one) is guarded by `_busy`; what the
handler then could not do is done right after.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from socket import MSG_DONTWAIT
from time import monotonic
from typing import TYPE_CHECKING, Any

from flashq_worker.executor import frames, outcome, watchdog
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from socket import socket
    from types import FrameType as PythonFrame

    from flashq_worker.executor.calls import Calls
    from flashq_worker.executor.outcome import Outcome


class JobInterrupt(BaseException):
    """Raised inside a job that was cancelled or ran out of time. Not an Exception: those get caught."""


class Inbox:
    """The frames received and not yet acted on, and what was said about the current job."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._decoder = FrameDecoder()
        self._queue: deque[Frame] = deque()
        self._dropped: deque[Outcome] = deque()  # what is to be answered about jobs that will not begin
        self._current: Frame | None = None
        self._reason: str | None = None  # why the current job is interrupted
        self._armed = False  # whether JobInterrupt may be raised now
        self._busy = False  # with the socket or the queue: a signal is only noted
        self._poked = False  # a signal came, and what it announced has not been read yet
        self._credit = 0  # how many chunks the current job may send
        self._sending = threading.Lock()
        self.calls: Calls | None = None  # what jobs call

    def next(self) -> Frame:
        """The oldest LOAD, RUN or STOP frame; waits for one. A RUN frame's job becomes the current one.

        Raises EOFError when the supervisor closed the stream, FrameError when it makes no sense.
        """
        self._busy = True
        try:
            while not self._queue:
                self._receive(0)
            frame = self._queue.popleft()
            if frame.type is FrameType.RUN:
                self._current = frame
                self._credit = frame.meta.get("credit", 0)
        finally:
            self._busy = False
        if self._poked:
            self._drain()
        return frame

    def answer(self, result: Outcome) -> None:
        """Send a job's outcome."""
        self._busy = True
        try:
            self._send(FrameType.OUTCOME, result.meta, result.blob)
        finally:
            self._busy = False

    def chunk(self, made: Outcome) -> None:
        """Send what the current job yielded, once it may. Raises JobInterrupt where the job is not to go on."""
        self._busy = True
        try:
            while self._credit <= 0 and self._reason is None:
                self._receive(0)
            if self._reason is None:
                self._credit -= frames.chunk_cost(len(made.blob))
                self._send(FrameType.CHUNK, made.meta, made.blob)
        finally:
            self._busy = False
        if self._poked:
            self._drain()
        if self._armed and self._reason is not None:
            self._armed = False
            raise JobInterrupt

    def send_word(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        """See `calls.Way`."""
        _check_thread()
        self._busy = True
        try:
            self._send(kind, meta, blob)
        finally:
            self._busy = False
        if self._poked:
            self._drain()

    def report(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes) -> None:
        """See `delivery.Line`."""
        if threading.current_thread() is threading.main_thread():
            self.send_word(kind, meta, blob)
        elif not self.is_stopping(meta["job"], meta["fence"]):
            self._send(kind, meta, blob)

    def is_stopping(self, job: str, fence: int) -> bool:
        """See `delivery.Line`."""
        run = self._current
        runs = run is not None and (run.meta["job"], run.meta["fence"]) == (job, fence)
        return not runs or self._reason is not None

    def _send(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes) -> None:
        """From the main thread while busy, or from another one."""
        with self._sending:
            frames.send(self._sock, kind, meta, blob)

    @property
    def awaits(self) -> bool:
        """See `calls.Way`."""
        return False

    def until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """See `calls.Way`. Raises JobInterrupt where the job is not to go on."""
        _check_thread()
        deadline = None if timeout_s is None else monotonic() + timeout_s
        self._busy = True
        try:
            while not done() and self._reason is None:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                if not select.select([self._sock], [], [], left)[0]:
                    break
                self._receive(0)
        finally:
            self._busy = False
        if self._poked:
            self._drain()
        if self._armed and self._reason is not None:
            self._armed = False
            raise JobInterrupt
        return done()

    def arm(self) -> None:
        """From here on the current job may be interrupted. Raises JobInterrupt where it already was."""
        self._armed = True
        if self._reason is not None:
            self._armed = False
            raise JobInterrupt

    def disarm(self) -> None:
        """From here on nothing is raised by a signal."""
        self._armed = False

    def finish(self) -> str | None:
        """End the current job; the reason it was interrupted for ("cancel", "timeout"), or None."""
        self._current = None
        reason, self._reason = self._reason, None
        return reason

    def hand_over(self) -> tuple[list[Frame], FrameDecoder]:
        """The frames not yet acted on, and the decoder with what has arrived of the next."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting, self._decoder

    def on_signal(self, signum: int, frame: PythonFrame | None) -> None:
        """Read what the supervisor announces by SIGUSR1; raises JobInterrupt inside the job that it names."""
        watchdog.answered()
        self._poked = True
        if not self._busy:
            self._drain()
            if self._armed and self._reason is not None:
                self._armed = False
                raise JobInterrupt

    def _drain(self) -> None:
        """Read all that is there, and again while further signals arrive."""
        while self._poked:
            self._poked = False
            self._busy = True
            try:
                while True:
                    self._receive(MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except (EOFError, ConnectionResetError, BrokenPipeError):
                watchdog.end_group()
            finally:
                self._busy = False

    def _receive(self, flags: int) -> None:
        """Take in what one read gives, and answer what it dropped. To be called while busy."""
        for frame in self._decoder.receive(self._sock, flags):
            self._accept(frame)
        while self._dropped:
            result = self._dropped.popleft()
            self._send(FrameType.OUTCOME, result.meta, result.blob)

    def _accept(self, frame: Frame) -> None:
        if frame.type is FrameType.CREDIT:
            if self._current is not None and _same_run(self._current, frame):
                self._credit += frame.meta["chunks"]
            return
        if frame.type is FrameType.REPLY:
            if self.calls is not None:
                self.calls.on_reply(frame)
            return
        if frame.type is not FrameType.CANCEL:
            self._queue.append(frame)
            return
        reason = frame.meta["reason"]
        if self._current is not None and _same_run(self._current, frame):
            if reason != "give-back":
                self._reason = self._reason or reason
            return
        for waiting in self._queue:
            if waiting.type is FrameType.RUN and _same_run(waiting, frame):
                self._queue.remove(waiting)
                self._dropped.append(outcome.interrupted(waiting.meta, 0.0, reason))
                return


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("calls from inside a job are made, and waited for, by the thread that runs the job")


def _same_run(run: Frame, word: Frame) -> bool:
    return bool(run.meta["job"] == word.meta["job"] and run.meta["fence"] == word.meta["fence"])
