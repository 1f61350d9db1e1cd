"""Which job runs, for `flashq.current()`: set in the context that the job's function is called in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from flashq_worker.executor.frames import FrameType

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The job's id, the attempt's number and fence, and the endpoint.
CURRENT: ContextVar[tuple[str, int, int, str] | None] = ContextVar("flashq_job", default=None)


def begin(run: Mapping[str, Any] | None, endpoint: str) -> None:
    """A job begins in this context. `run`: the meta of its RUN frame; None: several do, and none is the current one."""
    if run is None:
        CURRENT.set(None)
        return
    CURRENT.set((run["job"], run.get("attempt", 1), run["fence"], endpoint))


class Line(Protocol):
    """What a running job may do by way of its executor, from any thread."""

    def report(self, kind: FrameType, meta: Mapping[str, Any], blob: bytes) -> None:
        """Send a frame about a job; nothing where that does not run any more."""

    def is_stopping(self, job: str, fence: int) -> bool:
        """Whether a job was told to stop, or does not run any more."""


#: That of this executor, once it runs jobs.
LINE: Line | None = None


def progress(value: bytes) -> None:
    """How far the current job is, as JSON."""
    run = CURRENT.get()
    if run is not None and LINE is not None:
        LINE.report(FrameType.PROGRESS, {"job": run[0], "fence": run[2]}, value)


def is_stopping() -> bool:
    """Whether the current job was told to stop."""
    run = CURRENT.get()
    return run is not None and LINE is not None and LINE.is_stopping(run[0], run[2])
