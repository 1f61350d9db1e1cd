"""What a program is told of the names in it that mean something else here: each thing once, in one line."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("flashq")
_EXECUTOR = "flashq_worker.executor.session"
_told: set[str] = set()


def once(what: str, text: str) -> None:
    """Say something, unless it was said before, or this is a worker's process: its program has been told."""
    if what not in _told and not in_worker():
        _told.add(what)
        log.warning("flashq: %s", text)


def in_worker() -> bool:
    """Whether this is a process that loads functions and runs jobs."""
    return getattr(sys.modules.get(_EXECUTOR), "is_this_process", False) is True


def forget() -> None:
    """Everything may be said again: another program begins."""
    _told.clear()
