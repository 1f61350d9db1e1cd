"""An endpoint's queue, to look after from any program: what waits, what failed, and whether anything is taken.

Every call here blocks for the broker's answer; from a coroutine, `asyncio.to_thread` keeps the loop going.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.client import current_client
from flashq.errors import ConfigurationError, EndpointNotFound

if TYPE_CHECKING:
    from flashq.job import EndpointJob
    from flashq.store.broker import Broker
    from flashq.store.failed import FailedJob


class Queue:
    """The queue of the endpoint of this name: ``Queue("embed")``, or ``embed.queue``.

    Methods raise EndpointNotFound where no such endpoint is registered, and BrokerError.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Queue({self.name!r})"

    def __len__(self) -> int:
        """How many jobs wait, delayed ones and those of other priorities included."""
        from flashq.store.queries_queues import queue

        row = queue(self._broker, self.name)
        return row.queued + row.scheduled

    def __bool__(self) -> bool:
        """Always true: an empty queue is a queue."""
        return True

    @property
    def _broker(self) -> Broker:
        return current_client().broker

    # -- whether anything is taken -------------------------------------------------------------------
    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        from flashq.store.queries_queues import queue

        return queue(self._broker, self.name).paused

    def pause(self) -> None:
        """Have nothing more taken from it: jobs are accepted and wait; what has been taken goes on."""
        self._found(self._broker.run(self._broker.transitions.pause(self.name)))

    def resume(self) -> None:
        """End a pause: idle workers and the autoscaler are woken at once."""
        self._found(self._broker.run(self._broker.transitions.resume(self.name)))

    def _found(self, verdict: str) -> None:
        if verdict == "unknown":
            raise EndpointNotFound(f"no endpoint {self.name} is registered")

    # -- what failed ---------------------------------------------------------------------------------
    def failed(self, *, reason: str | None = None, limit: int = 100) -> list[FailedJob]:
        """The jobs that failed or timed out for good, the latest first: why, and after how many runs.

        `reason`: only of this one ("exception", "crash", "lost", "timeout" …).
        """
        from flashq.store.failed import listed

        return listed(self._broker, self.name, reason=reason, limit=limit)

    def requeue(self, *, reason: str | None = None) -> int:
        """Begin all of those anew, with full budgets; how many there were."""
        from flashq.store.failed import requeue

        return requeue(self._broker, self.name, reason=reason or "")

    def purge(self, *, failed: bool = False, reason: str | None = None) -> int:
        """Cancel everything that waits, or with `failed` delete what failed (of a `reason`); how many jobs it was."""
        from flashq.store.failed import purge, purge_waiting

        if failed:
            return purge(self._broker, self.name, reason=reason or "")
        if reason is not None:
            raise ConfigurationError("a reason tells failed jobs apart: purge(failed=True, reason=…)")
        return purge_waiting(self._broker, self.name)


def fetch_job(job_id: str) -> EndpointJob[Any]:
    """The job of this id, whichever process submitted it.

    Returns at once: `result` and `status` tell how it stands, and raise JobNotFound where there is none, or
    ResultExpired where it completed and is kept no longer. Where this process waits for the job already, it is told
    what that wait ends with. Raises: ConfigurationError where this is no job's id.
    """
    return current_client().job(job_id)
