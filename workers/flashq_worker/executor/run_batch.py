"""Runs jobs gathered: several calls' items in one call of the function, a value or an error for each.

The first job of a batch waits a while for others. A function that raises is called again with each item alone, so that
one bad item fails alone; each of these is then a job by itself, answered when it has run. What is said of single jobs
meanwhile is answered at once: a cancelled one is let go of, and its value dropped; one that ran out of time interrupts
the batch, and the others are run again without it.
"""

from __future__ import annotations

import os
import select
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from flashq_worker.executor import delivery, frames, outcome, output
from flashq_worker.executor.frames import FrameType
from flashq_worker.executor.interrupt import Inbox, JobInterrupt

if TYPE_CHECKING:
    from socket import socket

    from flashq_worker.executor.frames import Frame
    from flashq_worker.executor.outcome import Outcome
    from flashq_worker.executor.targets import Target, Targets

_Run = tuple[str, int]  # job and fence


class BatchInbox(Inbox):
    """An inbox for several jobs at once."""

    def __init__(self, sock: socket) -> None:
        super().__init__(sock)
        self._members: dict[_Run, Frame] = {}  # those of the batch that have not been answered
        self._begun = False

    def gather(self, first: Frame, size: int, wait_s: float) -> None:
        """Make a batch of this job and of those of the same target that come, in order, within `wait_s`."""
        deadline = monotonic() + wait_s
        self._begun = False
        self._members = {_run_of(first): first}
        self._current = None
        if self._reason is not None:  # said of the first one since it was taken
            self.answer_for(outcome.interrupted(first.meta, 0.0, self._reason))
            self._reason = None
        while len(self._members) < size:
            self._busy = True
            try:
                while not self._queue and (left := deadline - monotonic()) > 0:
                    if select.select([self._sock], [], [], left)[0]:
                        self._receive(0)
                if not self._queue or not _alike(first, self._queue[0]):
                    break
                frame = self._queue.popleft()
                self._members[_run_of(frame)] = frame
            finally:
                self._busy = False
        self._begun = True
        if self._poked:
            self._drain()

    @property
    def members(self) -> list[Frame]:
        """The jobs of the batch that still want an answer, in order."""
        return list(self._members.values())

    def answer_for(self, result: Outcome) -> None:
        """Send the outcome of a job of the batch, unless something else was said of it meanwhile."""
        if self._members.pop((result.meta["job"], result.meta["fence"]), None) is not None:
            self.answer(result)

    def is_stopping(self, job: str, fence: int) -> bool:
        """See `delivery.Line`."""
        if self._current is not None:  # jobs run one by one here
            return super().is_stopping(job, fence)
        return (job, fence) not in self._members or self._reason is not None

    def _accept(self, frame: Frame) -> None:
        if frame.type is not FrameType.CANCEL or (run := _run_of(frame)) not in self._members:
            super()._accept(frame)
            return
        reason = frame.meta["reason"]
        if reason == "give-back" and self._begun:
            return
        self._dropped.append(outcome.interrupted(self._members.pop(run).meta, 0.0, reason))
        if self._begun and (reason == "timeout" or not self._members):
            self._reason = reason


def _run_of(frame: Frame) -> _Run:
    return frame.meta["job"], frame.meta["fence"]


def _alike(one: Frame, other: Frame) -> bool:
    return other.type is FrameType.RUN and one.meta.get("target") == other.meta.get("target")


def run(inbox: BatchInbox, targets: Targets, endpoint: str, size: int, wait_s: float) -> None:
    """Run what arrives until STOP, up to `size` jobs together. Raises EOFError as `run_sync.run` does."""
    pid = os.getpid()
    while True:
        frame = inbox.next()
        if frame.type is FrameType.STOP:
            return
        if frame.type is not FrameType.RUN:
            raise frames.FrameError(f"a {frame.type.name} frame, after LOAD")
        inbox.gather(frame, size, wait_s)
        target = targets.of(frame.meta)
        alone = False
        while members := inbox.members:  # again, where one of them ran out of time, or they are to run alone
            results = _attempt(inbox, target, members[:1] if alone else members, endpoint)
            alone = alone or results is None
            for result in results or ():
                if os.getpid() != pid:
                    os._exit(
                        0
                    )  # the job forked, and this is the child that came back from it: it answers nothing
                output.flush()
                inbox.answer_for(result)
        del frame


def _attempt(inbox: BatchInbox, target: Target, members: list[Frame], endpoint: str) -> list[Outcome] | None:
    """Run these together: nothing where that was interrupted, None where each is to run alone."""
    alone = members[0].meta if len(members) == 1 else None
    delivery.begin(alone, endpoint)
    results: list[Outcome] | None = []
    try:
        try:
            inbox.arm()
            results = _execute(target, members)
        finally:
            inbox.disarm()
    except JobInterrupt:
        pass  # raised outside of the user's code
    if inbox.calls is not None and alone is not None:
        inbox.calls.forget(alone["job"], alone["fence"])
    return [] if inbox.finish() is not None else results


def _execute(target: Target, members: list[Frame]) -> list[Outcome] | None:
    started = perf_counter()
    items: list[tuple[Frame, Any]] = []
    results: list[Outcome] = []
    for frame in members:
        try:
            items.append((frame, _item(target, frame)))
        except JobInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code
            results.append(outcome.raised(frame.meta, outcome.milliseconds_since(started), error))
    if not items:
        return results
    try:
        values = list(target.run([item for _, item in items]))
        if len(values) != len(items):
            raise ValueError(f"a batch of {len(items)} items was answered with {len(values)} values")
    except JobInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - sys.exit and KeyboardInterrupt end the jobs, not the executor
        if len(items) > 1:
            return None
        return [*results, outcome.raised(items[0][0].meta, outcome.milliseconds_since(started), error)]
    spent_ms = outcome.milliseconds_since(started)
    for (frame, _), value in zip(items, values, strict=True):
        answer = outcome.raised if isinstance(value, BaseException) else outcome.returned
        results.append(answer(frame.meta, spent_ms, value))
    return results


def _item(target: Target, frame: Frame) -> Any:
    args, kwargs = target.arguments(frame.meta["encoding"], frame.blob)
    if len(args) != 1 or kwargs:
        raise TypeError("each call of a batch endpoint gives one item, by its place")
    return args[0]
