"""What a program is told of the names in it that mean something else here: each thing once, in one line."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("flashq")
_EXECUTOR = "flashq_worker.executor.calls"
_told: set[str] = set()


def once(what: str, text: str) -> None:
    """Say something, unless it was said before, or this is a job's process: its program has been told."""
    executor = sys.modules.get(_EXECUTOR)
    if what not in _told and (executor is None or executor.CALLS is None):
        _told.add(what)
        log.warning("flashq: %s", text)


def forget() -> None:
    """Everything may be said again: another program begins."""
    _told.clear()
