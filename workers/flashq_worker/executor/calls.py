"""The calls that jobs make of other endpoints: out as CALL frames, answered by REPLY frames.

User code does not use this: `flashq.nested` does, in its name.
"""

from __future__ import annotations

import contextlib
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from flashq_worker.executor import delivery
from flashq_worker.executor.frames import FrameType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq_worker.executor.frames import Frame

#: Of this executor, once it runs jobs.
CALLS: Calls | None = None


class Way(Protocol):
    """How frames get out, and how a job waits for those that come in."""

    def send_word(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send a frame about a job."""

    @property
    def awaits(self) -> bool:
        """Whether jobs are tasks of an event loop, which takes in what arrives."""

    def until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Take in what arrives until `done()`, at most so long; whether it is. Raises ValueError where it cannot be."""


class Calls:
    """Those of all jobs of an executor. `limit`: bytes of one call's arguments."""

    def __init__(self, way: Way, limit: int) -> None:
        self._way = way
        self.limit = limit
        self._last = 0
        self._told: dict[int, tuple[tuple[str, int], Callable[[Mapping[str, Any], bytes], None]]] = {}
        self._waits: Counter[tuple[str, int]] = Counter()

    @property
    def awaits(self) -> bool:
        """Whether jobs await, and do not block."""
        return self._way.awaits

    def begin(
        self,
        endpoint: str,
        target: str,
        options: Mapping[str, Any],
        payload: bytes,
        *,
        detached: bool,
        told: Callable[[Mapping[str, Any], bytes], None],
    ) -> int:
        """Make a call for the current job; its number. `told` gets each REPLY.

        Raises ValueError where there is no such job, or it may make none here.
        """
        run = _current()
        self._last += 1
        meta = {**_named(run), "call": self._last, "endpoint": endpoint, "target": target}
        self._told[self._last] = (run, told)
        self._way.send_word(FrameType.CALL, {**meta, "options": dict(options), "detached": detached}, payload)
        return self._last

    def cancel(self, number: int) -> None:
        """Have the job of a call stopped."""
        if (known := self._told.get(number)) is not None:
            self._way.send_word(FrameType.DROP, {**_named(known[0]), "call": number})

    def on_reply(self, frame: Frame) -> None:
        """What became of a call."""
        known = self._told.get(frame.meta["call"])
        if known is not None:
            if frame.meta["what"] != "accepted":
                del self._told[frame.meta["call"]]
            known[1](frame.meta, frame.blob)

    def forget(self, job: str, fence: int) -> None:
        """A job has ended: what becomes of its calls is of no more interest here."""
        self._told = {number: known for number, known in self._told.items() if known[0] != (job, fence)}
        self._waits.pop((job, fence), None)

    # -- waiting (see flashq.job.Waiter) -------------------------------------------------------------
    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Block until `done()`."""
        with self.awaiting():
            return self._way.until(done, timeout_s)

    @contextlib.contextmanager
    def awaiting(self) -> Iterator[None]:
        """The current job waits meanwhile, for one more thing: its worker may lend its place (decision 0029)."""
        run = delivery.CURRENT.get()
        if run is None:
            yield
            return
        of = (run[0], run[2])
        self._waits[of] += 1
        if self._waits[of] == 1:
            self._way.send_word(FrameType.WAITING, {**_named(of), "waiting": True})
        try:
            yield
        finally:
            self._waits[of] -= 1
            if not self._waits[of]:
                del self._waits[of]
                self._way.send_word(FrameType.WAITING, {**_named(of), "waiting": False})

    # -- values --------------------------------------------------------------------------------------
    def pickled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """A call's arguments. Raises whatever pickling raises."""
        import cloudpickle

        return bytes(cloudpickle.dumps((args, dict(kwargs)), protocol=5))

    def unpickled(self, raw: bytes) -> Any:
        """A value, or an exception, whose signature was verified. Raises whatever unpickling raises."""
        return pickle.loads(raw)


def _current() -> tuple[str, int]:
    run = delivery.CURRENT.get()
    if run is None:
        raise ValueError(
            "a call from inside a job is made by the thread or task that runs it; one that runs several at once, as a"
            " batch, makes none"
        )
    return run[0], run[2]


def _named(run: tuple[str, int]) -> dict[str, Any]:
    return {"job": run[0], "fence": run[1]}
