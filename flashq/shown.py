"""On a terminal, a caller that blocks for a job sees what that prints, as it prints it.

On stderr, each line after the endpoint's name; elsewhere (a pipe, a notebook, a service) nothing is shown, and
`job.logs()` has it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from flashq.errors import FlashqError
from flashq.model.visible import visible_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flashq.job import EndpointJob


@contextlib.contextmanager
def output(job: EndpointJob[Any]) -> Iterator[None]:
    """Meanwhile, show what a job prints, if somebody is there to see it."""
    if not sys.stderr.isatty():
        yield
        return
    shown = _Shown(job)
    threading.Thread(target=shown.follow, name="flashq-output", daemon=True).start()
    try:
        yield
    finally:
        shown.finish()


class _Shown:
    """How much of a job's output has been shown."""

    def __init__(self, job: EndpointJob[Any]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._lines = 0
        self._finished = False

    def follow(self) -> None:
        """Show lines as they come."""
        # Whoever waits for the job is told what is wrong with the broker, or with the job.
        with contextlib.suppress(FlashqError, OSError):
            self._job._call.acknowledged.result(None)  # noqa: SLF001 — before, the broker knows of no such job
            self._show(self._job.logs(follow=True))

    def finish(self) -> None:
        """Show what is left. A follower that waits for more shows nothing from here on."""
        with contextlib.suppress(FlashqError, OSError):
            rest = list(self._job.logs())
            with self._lock:
                self._finished = True
                for line in rest[self._lines :]:
                    self._write(line)

    def _show(self, lines: Iterable[str]) -> None:
        for line in lines:
            with self._lock:
                if self._finished:
                    return
                self._write(line)
                self._lines += 1

    def _write(self, line: str) -> None:
        sys.stderr.write(f"{self._job.endpoint} | {visible_output(line)}\n")
        sys.stderr.flush()
