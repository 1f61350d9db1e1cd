"""stdout and stderr of the executor: a pipe to the supervisor, written line by line."""

from __future__ import annotations

import contextlib
import io
import os
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


def open_for_forks() -> None:
    """Make stdout and stderr anew, of descriptors 1 and 2, in a process whose forks will have a pipe there.

    A stream finds out when it is made whether it can seek, and a module may keep the stream that it finds.
    """
    pipe = os.pipe()
    for number, name in ((1, "stdout"), (2, "stderr")):
        kept = os.dup(number)
        os.dup2(pipe[1], number)
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        os.dup2(kept, number)
        os.close(kept)
    for end in pipe:
        os.close(end)
    set_up()
