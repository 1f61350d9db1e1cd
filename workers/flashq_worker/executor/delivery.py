"""Which job runs, for `flashq.current()`: set in the context that the job's function is called in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

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
