"""What runs in every system: it writes down that it began, and where. Standard library only; no package of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path


def run(record: str, number: int, stay_s: float) -> int:
    """Append a line to `record`; the first run of a number stays, to be killed, and a later one ends at once.

    A line: number, "begin" or "end", nanoseconds (CLOCK_MONOTONIC: one clock for the machine), pid, parent's pid.
    """
    once = Path(f"{record}.{number}")
    first = not once.exists()
    once.touch()
    _note(record, number, "begin")
    until = time.monotonic() + (stay_s if first else 0.0)
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.5))
    _note(record, number, "end")
    return number


def _note(record: str, number: int, what: str) -> None:
    line = f"{number} {what} {time.monotonic_ns()} {os.getpid()} {os.getppid()}\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
