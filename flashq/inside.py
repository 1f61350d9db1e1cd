"""`flashq.current()`: what a function that runs as a job may know of it.

The executor, which imports nothing of flashq, keeps it in a context variable of its own; here it is looked up.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from flashq.errors import PayloadTooLarge, SerializationError, UnsupportedCall

_EXECUTOR = "flashq_worker.executor.delivery"
MOST_PROGRESS = 4096
"""Bytes of JSON."""


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

    @property
    def cancelled(self) -> bool:
        """Whether the job was told to stop: it was cancelled, or ran out of time. For threads, and loops that go on.

        The function itself is interrupted anyway: a plain one by an exception, a coroutine by `CancelledError`.
        """
        return bool(sys.modules[_EXECUTOR].is_stopping())

    def progress(self, value: Any) -> None:
        """Tell how far the job is: any JSON value of up to 4 KiB, in the place of the last one.

        Whoever looks at the job sees it (`job.progress()`, `flashq job`), within a tenth of a second or so; of several
        in quick succession the last one counts. From any thread that has the job's context.
        Raises: SerializationError, PayloadTooLarge.
        """
        try:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"progress({value!r:.80}) is no JSON: {error}") from None
        if len(written) > MOST_PROGRESS:
            raise PayloadTooLarge(
                f"progress takes {len(written):,} bytes of JSON; the limit is {MOST_PROGRESS:,}"
            )
        sys.modules[_EXECUTOR].progress(written)


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
