"""`flashq.current()`: what a function that runs as a job may know of it.

The executor, which imports nothing of flashq, keeps it in a context variable of its own; here it is looked up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from flashq.errors import UnsupportedCall

_EXECUTOR = "flashq_worker.executor.delivery"


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """A job as its own function sees it. Effects outside can be told apart by these."""

    id: str
    """The same in each attempt."""
    attempt: int
    """From 1: how often it has begun. One that was hit before the broker knew that it began does not count."""
    fence: int
    """Rises with every claim of the job: of two attempts at once the one with the lower fence is stale."""
    endpoint: str


def current() -> CurrentJob:
    """The job that the calling function runs as; in a thread of its own making, pass it on.

    Raises: UnsupportedCall outside a job.
    """
    executor = sys.modules.get(_EXECUTOR)
    found = None if executor is None else executor.CURRENT.get()
    if found is None:
        raise UnsupportedCall(
            "flashq.current() is known inside a job only, in the thread or task that runs it"
        )
    return CurrentJob(*found)
