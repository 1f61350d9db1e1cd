"""stdout and stderr of the executor: a pipe to the supervisor, written line by line."""

from __future__ import annotations

import contextlib
import io
import sys


def set_up() -> None:
    """Write lines as they end, so that a crash loses none; text that is no text never raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def flush() -> None:
    """Push out what user code wrote. It may have replaced, closed or removed the streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
