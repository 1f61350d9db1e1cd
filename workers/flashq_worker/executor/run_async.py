"""Runs coroutines side by side on one event loop that lives as long as the executor.

A CANCEL cancels the job's task. The signal that follows it has nothing to add here: a coroutine that blocks
the loop cannot be cancelled, and the supervisor kills the executor after its grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from flashq_worker.executor import calls, delivery, frames, outcome, output, watchdog
from flashq_worker.executor.frames import FrameType
from flashq_worker.executor.output import JobOutput

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from socket import socket

    from flashq_worker.executor.frames import Frame, FrameDecoder
    from flashq_worker.executor.outcome import Outcome
    from flashq_worker.executor.targets import Target, Targets


@dataclass
class _Attempt:
    """One running job."""

    frame: Frame
    task: asyncio.Task[None] | None = None
    began: bool = False
    reason: str | None = None  # why it was cancelled
    credit: int = 0  # how many chunks it may send
    credited: asyncio.Event = field(default_factory=asyncio.Event)


class AsyncRunner(asyncio.Protocol):
    """Up to `concurrency` jobs at a time; further ones wait here, in order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        targets: Targets,
        concurrency: int,
        decoder: FrameDecoder,
        endpoint: str,
    ) -> None:
        self._loop = loop
        self._targets = targets
        self._concurrency = concurrency
        self._decoder = decoder
        self._endpoint = endpoint
        self._pid = os.getpid()
        self._waiting: deque[Frame] = deque()
        self._running: dict[str, _Attempt] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._stopping = False
        self.closed = False
        limit = calls.CALLS.limit if calls.CALLS is not None else 0
        self._calls = calls.CALLS = calls.Calls(self, limit)
        self._thread = threading.get_ident()
        delivery.LINE = self
        self._outputs = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, JobOutput)]
        for stream in self._outputs:
            stream.send_by(self._print)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the supervisor."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Act on every frame that `data` completes."""
        for frame in self._decoder.feed(data):
            self.accept(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """All is said after STOP; or else the supervisor is gone, or made no sense."""
        if not self._done:
            watchdog.end_group()
        self.closed = True
        self._loop.stop()

    @property
    def _done(self) -> bool:
        return self._stopping and not self._running and not self._waiting

    def accept(self, frame: Frame) -> None:
        """Act on one frame."""
        if frame.type is FrameType.RUN:
            if len(self._running) < self._concurrency:
                self._begin(frame)
            else:
                self._waiting.append(frame)
        elif frame.type is FrameType.CANCEL:
            self._cancel(frame)
        elif frame.type is FrameType.CREDIT:
            self._add_credit(frame)
        elif frame.type is FrameType.REPLY:
            self._calls.on_reply(frame)
        elif frame.type is FrameType.STOP:
            self._stopping = True
            self._end_when_done()
        else:
            raise frames.FrameError(f"a {frame.type.name} frame, after LOAD")

    def _add_credit(self, frame: Frame) -> None:
        attempt = self._running.get(frame.meta["job"])
        if attempt is not None and attempt.frame.meta["fence"] == frame.meta["fence"]:
            attempt.credit += frame.meta["chunks"]
            attempt.credited.set()

    def _begin(self, frame: Frame) -> None:
        attempt = _Attempt(frame, credit=frame.meta.get("credit", 0))
        self._running[frame.meta["job"]] = attempt
        attempt.task = self._loop.create_task(self._attempt(attempt))

    def _cancel(self, cancel: Frame) -> None:
        job, fence, reason = cancel.meta["job"], cancel.meta["fence"], cancel.meta["reason"]
        attempt = self._running.get(job)
        if attempt is not None:
            begun = reason == "give-back" and attempt.began
            if attempt.frame.meta["fence"] != fence or begun:
                return
            attempt.reason = attempt.reason or reason
            # A task that has not begun would never run, and so never answer; it sees the reason when it does.
            if attempt.began and attempt.task is not None:
                attempt.task.cancel()
            return
        for frame in self._waiting:
            if frame.meta["job"] == job and frame.meta["fence"] == fence:
                self._waiting.remove(frame)
                self._send(outcome.interrupted(frame.meta, 0.0, reason))
                return

    async def _attempt(self, attempt: _Attempt) -> None:
        attempt.began = True
        frame = attempt.frame
        delivery.begin(frame.meta, self._endpoint)  # in the context of this task
        started = perf_counter()
        result: Outcome | None = None
        if attempt.reason is None:
            target = self._targets.of(frame.meta)
            result = await (self._stream if target.streams else self._call)(attempt, target)
        if result is None or attempt.reason is not None:
            elapsed = outcome.milliseconds_since(started)
            result = outcome.interrupted(frame.meta, elapsed, attempt.reason or "cancel")
        self._calls.forget(frame.meta["job"], frame.meta["fence"])
        for stream in self._outputs:
            stream.end(frame.meta["job"], frame.meta["fence"])
        self._send(result)
        del self._running[frame.meta["job"]]
        if self._waiting:
            self._begin(self._waiting.popleft())
        self._end_when_done()

    async def _call(self, attempt: _Attempt, target: Target) -> Outcome:
        frame, started = attempt.frame, perf_counter()
        try:
            args, kwargs = target.arguments(frame.meta["encoding"], frame.blob)
            value = target.run(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as error:  # noqa: BLE001 - sys.exit and the like end the job, not the executor
            return outcome.raised(frame.meta, outcome.milliseconds_since(started), error)
        return outcome.returned(frame.meta, outcome.milliseconds_since(started), value)

    async def _stream(self, attempt: _Attempt, target: Target) -> Outcome:
        """Send what a generator yields as it comes."""
        frame, started, number = attempt.frame, perf_counter(), 0
        try:
            args, kwargs = target.arguments(frame.meta["encoding"], frame.blob)
            async with contextlib.aclosing(_as_async(target.run(*args, **kwargs))) as values:
                async for value in values:
                    number += 1
                    made = outcome.chunk(frame.meta, number, value)
                    while attempt.credit <= 0:
                        attempt.credited.clear()
                        await attempt.credited.wait()
                    attempt.credit -= frames.chunk_cost(len(made.blob))
                    self._write(FrameType.CHUNK, made)
        except outcome.Unserializable as error:
            return outcome.unserializable(frame.meta, outcome.milliseconds_since(started), error)
        except BaseException as error:  # noqa: BLE001 - see _call
            return outcome.raised(frame.meta, outcome.milliseconds_since(started), error)
        return outcome.returned(frame.meta, outcome.milliseconds_since(started), None)

    def send_word(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        """See `calls.Way`."""
        if threading.get_ident() != self._thread:
            raise ValueError("calls from inside a coroutine are made, and awaited, on its event loop")
        self._put(kind, meta, blob)

    @property
    def awaits(self) -> bool:
        """See `calls.Way`."""
        return True

    def report(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes) -> None:
        """See `delivery.Line`."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.report, kind, meta, blob)
        elif self._runs(meta["job"], meta["fence"]):
            self._put(kind, meta, blob)

    def is_stopping(self, job: str, fence: int) -> bool:
        """See `delivery.Line`."""
        return not self._runs(job, fence) or self._running[job].reason is not None

    def _runs(self, job: str, fence: int) -> bool:
        attempt = self._running.get(job)
        return attempt is not None and attempt.frame.meta["fence"] == fence

    def _print(self, job: str, fence: int, lines: str) -> bool:
        """Send what a job wrote; from any thread. False where it does not run."""
        if not self._runs(job, fence):
            return False
        if threading.get_ident() == self._thread:
            self._put(
                FrameType.OUTPUT, {"job": job, "fence": fence}, lines.encode("utf-8", "backslashreplace")
            )
        else:
            self._loop.call_soon_threadsafe(self._print_late, job, fence, lines)
        return True

    def _print_late(self, job: str, fence: int, lines: str) -> None:
        """What a thread wrote for a job, which may have ended meanwhile."""
        if not self._print(job, fence, lines) and self._outputs:
            self._outputs[0].write(lines)

    def until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """See `calls.Way`."""
        raise ValueError("inside a coroutine a call is awaited: blocking for it would hold up the event loop")

    def _send(self, result: Outcome) -> None:
        self._write(FrameType.OUTCOME, result)

    def _write(self, kind: FrameType, made: Outcome) -> None:
        self._put(kind, made.meta, made.blob)

    def _put(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the child that came back from it: it answers nothing
        output.flush()
        if self._transport is None:
            raise RuntimeError("no connection to answer on")
        for piece in frames.pieces(kind, meta, blob):
            self._transport.write(piece)

    def _end_when_done(self) -> None:
        if self._done and self._transport is not None:
            self._transport.close()  # sends what is still to be sent, then connection_lost is called


async def _as_async(values: Any) -> AsyncGenerator[Any, None]:
    """An async generator as it is, and a plain one (a method beside coroutines) in turns with the rest of the loop."""
    if inspect.isasyncgen(values):
        async with contextlib.aclosing(values):
            async for value in values:
                yield value
        return
    with contextlib.closing(values):
        for value in values:
            yield value
            await asyncio.sleep(0)


def run(
    sock: socket,
    early: list[Frame],
    decoder: FrameDecoder,
    targets: Targets,
    concurrency: int,
    endpoint: str,
) -> None:
    """Run what arrives until STOP, beginning with the `early` frames that came behind LOAD."""
    with asyncio.Runner() as asyncio_runner:
        loop = asyncio_runner.get_loop()
        runner = AsyncRunner(loop, targets, concurrency, decoder, endpoint)
        sock.setblocking(False)
        loop.run_until_complete(loop.connect_accepted_socket(lambda: runner, sock))
        for frame in early:
            runner.accept(frame)
        while not runner.closed:
            # A task of the user's own that ends by SystemExit or KeyboardInterrupt breaks the loop, although
            # the exception also waits in the task for whoever awaits it.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()
