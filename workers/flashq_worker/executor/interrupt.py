"""Interrupting the running job, and only that one, in an executor that runs one job at a time.

The supervisor sends a CANCEL frame and then SIGUSR1. Python runs the signal's handler in the main thread,
which is also the thread that runs jobs, between two bytecodes. The handler reads the frames that are there
and decides by the job id each CANCEL names:

    the job that is running   -> JobInterrupt is raised in it
    a job not yet begun       -> it will be answered without being run
    anything else             -> nothing: the job ended before the word came

(Where the signal comes too early to end a system call that the job is about to make, `watchdog` repeats it.)
So a signal never hits a job it was not meant for, however late it arrives. What must not be interrupted
halfway (reading frames) is guarded by `_receiving`; what the handler then could not do is done right after.
"""

from __future__ import annotations

from collections import deque
from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING

from flashq_worker.executor import watchdog
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameType

if TYPE_CHECKING:
    from socket import socket
    from types import FrameType as PythonFrame


class JobInterrupt(BaseException):
    """Raised inside a job that was cancelled or ran out of time. Not an Exception: those get caught."""


class Inbox:
    """The frames received and not yet acted on, and what was said about the current job."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._decoder = FrameDecoder()
        self._queue: deque[Frame] = deque()
        self._interrupts: dict[str, str] = {}  # job -> reason; only of the current job and of queued ones
        self._current: str | None = None
        self._armed = False  # whether JobInterrupt may be raised now
        self._receiving = False
        self._poked = False  # a signal came, and what it announced has not been read yet

    def next(self) -> Frame:
        """The oldest LOAD, RUN or STOP frame; waits for one. A RUN frame's job becomes the current one.

        Raises EOFError when the supervisor closed the stream, FrameError when it makes no sense.
        """
        while not self._queue:
            self._receive(0)
        frame = self._queue[0]
        if frame.type is FrameType.RUN:
            # Before it leaves the queue, so that at every moment a CANCEL finds it in one of the two.
            self._current = frame.meta["job"]
        self._queue.popleft()
        if self._poked:
            self._drain()
        return frame

    def arm(self) -> None:
        """From here on the current job may be interrupted. Raises JobInterrupt where it already was."""
        self._armed = True
        if self._current in self._interrupts:
            self._armed = False
            raise JobInterrupt

    def disarm(self) -> None:
        """From here on nothing is raised by a signal."""
        self._armed = False

    def finish(self) -> str | None:
        """End the current job; the reason it was interrupted for ("cancel", "timeout"), or None."""
        job, self._current = self._current, None
        return self._interrupts.pop(job, None) if job is not None else None

    def hand_over(self) -> tuple[list[Frame], FrameDecoder]:
        """The frames not yet acted on, CANCEL included, and the decoder with what has arrived of the next."""
        cancels = [
            Frame(FrameType.CANCEL, {"job": job, "reason": reason})
            for job, reason in self._interrupts.items()
        ]
        frames = [*self._queue, *cancels]
        self._queue.clear()
        self._interrupts.clear()
        return frames, self._decoder

    def on_signal(self, signum: int, frame: PythonFrame | None) -> None:
        """Read what the supervisor announces by SIGUSR1; raises JobInterrupt inside the job that it names."""
        watchdog.answered()
        self._poked = True
        if not self._receiving:
            self._drain()
            if self._armed and self._current in self._interrupts:
                self._armed = False
                raise JobInterrupt

    def _drain(self) -> None:
        """Read all that is there, and again while further signals arrive."""
        while self._poked:
            self._poked = False
            try:
                while True:
                    self._receive(MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except (EOFError, ConnectionResetError):
                watchdog.end_group()

    def _receive(self, flags: int) -> None:
        self._receiving = True
        try:
            for frame in self._decoder.receive(self._sock, flags):
                self._accept(frame)
        finally:
            self._receiving = False

    def _accept(self, frame: Frame) -> None:
        if frame.type is not FrameType.CANCEL:
            self._queue.append(frame)
            return
        job = frame.meta["job"]
        queued = any(waiting.type is FrameType.RUN and waiting.meta["job"] == job for waiting in self._queue)
        if queued or job == self._current:
            self._interrupts[job] = frame.meta["reason"]
