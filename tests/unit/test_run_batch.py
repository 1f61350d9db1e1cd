"""Batches as an executor runs them, frame by frame, in this process."""

from __future__ import annotations

import pickle
import signal
import socket
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from flashq_worker.executor import delivery, frames, run_batch
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameType
from flashq_worker.executor.interrupt import JobInterrupt
from flashq_worker.executor.run_batch import BatchInbox
from flashq_worker.executor.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Executor:
    """A batch inbox, and the supervisor's end of its socket."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(0)
        self.inbox = BatchInbox(theirs)
        self._theirs = theirs
        self._decoder = FrameDecoder()
        self._answers: dict[str, tuple[str, Any]] = {}

    def say(self, kind: FrameType, job: str = "", blob: bytes = b"", **meta: Any) -> None:
        named = {"job": job, "fence": 1} if job else {}
        frames.send(self.ours, kind, {**named, **meta}, blob)

    def submit(self, *items: Any) -> None:
        for item in items:
            self.say(FrameType.RUN, f"e-{item}", pickle.dumps(((item,), {})), encoding="pickle", attempt=1)

    def cancel(self, item: Any, reason: str = "cancel") -> None:
        """Say so as a supervisor does: the frame, then the signal."""
        self.say(FrameType.CANCEL, f"e-{item}", reason=reason)
        self.inbox.on_signal(signal.SIGUSR1, None)

    def run(self, function: Callable[[list[Any]], Any], size: int = 8) -> dict[str, tuple[str, Any]]:
        """Run what was submitted; what was answered, by job: how it ended, and the value."""
        self.say(FrameType.STOP)
        targets = Targets(function, "sync", {})
        copy_context().run(run_batch.run, self.inbox, targets, "e", size, 0.0)
        return self.answers

    @property
    def answers(self) -> dict[str, tuple[str, Any]]:
        """What has been answered by now."""
        try:
            while True:
                for frame in self._decoder.receive(self.ours):
                    self._take(frame)
        except BlockingIOError:
            return self._answers

    def _take(self, frame: Frame) -> None:
        assert frame.type is FrameType.OUTCOME
        value = pickle.loads(frame.blob) if frame.meta["status"] == "ok" else None
        assert frame.meta["job"] not in self._answers, "answered twice"
        self._answers[frame.meta["job"]] = frame.meta["status"], value

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    made = Executor()
    monkeypatch.setattr(delivery, "LINE", made.inbox)
    yield made
    made.close()


def test_one_alone_in_its_batch_is_not_taken_for_cancelled(executor: Executor) -> None:
    # Given a function that asks whether it is to stop, expect no before it is cancelled, and yes after
    seen: list[bool] = []

    def function(items: list[str]) -> list[str]:
        seen.append(delivery.is_stopping())
        with pytest.raises(JobInterrupt):
            executor.cancel("a")
        seen.append(delivery.is_stopping())
        return items

    executor.submit("a")
    assert executor.run(function) == {"e-a": ("cancelled", None)}
    assert seen == [False, True]


def test_after_a_bad_item_each_is_answered_as_soon_as_it_was_run(executor: Executor) -> None:
    # Given a bad item among three: they are run alone, and each is a job of its own then
    ran: list[tuple[str, list[str], str]] = []

    def function(items: list[str]) -> list[str]:
        if "bad" in items:
            raise ValueError("bad")
        current = delivery.CURRENT.get()
        assert current is not None
        ran.append((items[0], sorted(executor.answers), current[0]))
        return items

    executor.submit("a", "bad", "c")
    answers = executor.run(function)

    # Expect what comes first to be stored while the others run: their time begins then
    assert ran == [("a", [], "e-a"), ("c", ["e-a", "e-bad"], "e-c")]
    assert answers == {"e-a": ("ok", "a"), "e-bad": ("error", None), "e-c": ("ok", "c")}


def test_one_that_runs_out_of_time_alone_takes_no_finished_one_along(executor: Executor) -> None:
    runs: list[list[str]] = []

    def function(items: list[str]) -> list[str]:
        runs.append(items)
        if len(items) > 1:
            raise ValueError("not together")
        if items == ["slow"]:
            executor.cancel("slow", "timeout")
        return items

    executor.submit("a", "slow", "c")
    answers = executor.run(function)
    assert answers == {"e-a": ("ok", "a"), "e-slow": ("timeout", None), "e-c": ("ok", "c")}
    assert runs == [["a", "slow", "c"], ["a"], ["slow"], ["c"]]


def test_a_cancel_that_comes_before_the_batch_is_gathered_counts(executor: Executor) -> None:
    # Given the first job of a batch, cancelled right after it was taken from the queue
    executor.submit("a", "b")
    take = executor.inbox.next

    def taken() -> Frame:
        frame = take()
        if frame.meta.get("job") == "e-a":
            executor.cancel("a")
        return frame

    executor.inbox.next = taken  # type: ignore[method-assign]
    ran: list[str] = []

    def function(items: list[str]) -> list[str]:
        ran.extend(items)
        return items

    # Expect it not to be run, and the other one to be
    assert executor.run(function) == {"e-a": ("cancelled", None), "e-b": ("ok", "b")}
    assert ran == ["b"]


def test_an_interrupt_while_an_item_is_unpickled_ends_the_batch(executor: Executor) -> None:
    class Slow:
        def __reduce__(self) -> Any:
            return (executor_cancel, ())

    def executor_cancel() -> str:
        executor.cancel("s", "timeout")
        return "unpickled"

    globals()["executor_cancel"] = executor_cancel
    executor_cancel.__qualname__ = "executor_cancel"
    ran: list[list[str]] = []

    def function(items: list[str]) -> list[str]:
        ran.append(items)
        return items

    executor.say(FrameType.RUN, "e-s", pickle.dumps(((Slow(),), {})), encoding="pickle", attempt=1)
    executor.submit("b")
    assert executor.run(function) == {"e-s": ("timeout", None), "e-b": ("ok", "b")}
    assert ran == [["b"]], "nothing is run in vain"
