"""Runs jobs one after the other in the main thread: frame in, function called, outcome out.

The hot path: one system call to receive, one to send, no other thread.
"""

from __future__ import annotations

import contextlib
import os
from time import perf_counter
from typing import TYPE_CHECKING

from flashq_worker.executor import delivery, frames, outcome, output
from flashq_worker.executor.frames import FrameType
from flashq_worker.executor.interrupt import JobInterrupt

if TYPE_CHECKING:
    from flashq_worker.executor.frames import Frame
    from flashq_worker.executor.interrupt import Inbox
    from flashq_worker.executor.outcome import Outcome
    from flashq_worker.executor.targets import Target, Targets


def run(inbox: Inbox, targets: Targets, endpoint: str) -> None:
    """Run what arrives until STOP. Raises EOFError when the supervisor closed the stream."""
    pid = os.getpid()
    while True:
        frame = inbox.next()
        if frame.type is FrameType.STOP:
            return
        if frame.type is not FrameType.RUN:
            raise frames.FrameError(f"a {frame.type.name} frame, after LOAD")
        result = _attempt(inbox, targets, frame, endpoint)
        if os.getpid() != pid:
            os._exit(0)  # the job forked, and this is the child that came back from it: it answers nothing
        output.flush()
        inbox.answer(result)
        del frame, result  # an idle executor holds no payload


def _attempt(inbox: Inbox, targets: Targets, frame: Frame, endpoint: str) -> Outcome:
    """Run one job to its outcome. An interrupt decides it, even where the job swallowed the interrupt."""
    result: Outcome | None = None
    started = perf_counter()
    delivery.begin(frame.meta, endpoint)
    try:
        try:
            inbox.arm()
            target = targets.of(frame.meta)
            execute = _stream if target.streams else _execute
            result = execute(inbox, target, frame)
        finally:
            inbox.disarm()
    except JobInterrupt:
        pass  # raised outside of the user's code; the inbox knows the reason
    reason = inbox.finish()
    if inbox.calls is not None:
        inbox.calls.forget(frame.meta["job"], frame.meta["fence"])
    if result is None or reason is not None:
        return outcome.interrupted(frame.meta, outcome.milliseconds_since(started), reason or "cancel")
    return result


def _execute(inbox: Inbox, target: Target, frame: Frame) -> Outcome:
    started = perf_counter()
    try:
        args, kwargs = target.arguments(frame.meta["encoding"], frame.blob)
        value = target.run(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - sys.exit and KeyboardInterrupt end the job, not the executor
        return outcome.raised(frame.meta, outcome.milliseconds_since(started), error)
    return outcome.returned(frame.meta, outcome.milliseconds_since(started), value)


def _stream(inbox: Inbox, target: Target, frame: Frame) -> Outcome:
    """Send what a generator yields as it comes; its outcome is what it returns."""
    started = perf_counter()
    number = 0
    try:
        args, kwargs = target.arguments(frame.meta["encoding"], frame.blob)
        values = target.run(*args, **kwargs)
        with contextlib.closing(values):
            while True:
                try:
                    value = next(values)
                except StopIteration as end:
                    value = end.value
                    break
                number += 1
                inbox.chunk(outcome.chunk(frame.meta, number, value))
    except outcome.Unserializable as error:
        return outcome.unserializable(frame.meta, outcome.milliseconds_since(started), error)
    except BaseException as error:  # noqa: BLE001 - see _execute
        return outcome.raised(frame.meta, outcome.milliseconds_since(started), error)
    return outcome.returned(frame.meta, outcome.milliseconds_since(started), value)
