"""What jobs print on its way to a worker's log: bounded, and never the worker's end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flashq_worker.echo import BURST, Echo

if TYPE_CHECKING:
    from pathlib import Path


def test_output_is_passed_on_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        echo = Echo(log.fileno())
        echo.write(b"a line\n\x1b[31m\xff")
        echo.write(b"and more")

    assert (tmp_path / "log").read_bytes() == b"a line\n\x1b[31m\xffand more"


def test_output_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Given ten bursts at once, expect little more than one of them in the log."""
    with (tmp_path / "log").open("wb") as log:
        echo = Echo(log.fileno())
        for _ in range(10 * BURST >> 20):
            echo.write(bytes(1 << 20))

    assert BURST <= (tmp_path / "log").stat().st_size < 2 * BURST


def test_a_full_disk_costs_the_log_alone() -> None:
    """Given a device that takes nothing, expect no error."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        Echo(full).write(b"a line\n")
    finally:
        os.close(full)


def test_on_a_terminal_nothing_steers_it() -> None:
    """Given output with escapes, cut within a character, expect them shown, and colours to stay."""
    ours, theirs = os.openpty()
    try:
        echo = Echo(theirs)
        echo.write(b"\x1b]0;owned\x07 \x1b[32mgr\xc3")
        echo.write(b"\xbcn\x1b[0m\x1b[2J\n")
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)

    assert shown.decode().strip() == r"\x1b]0;owned\x07 " + "\x1b[32mgrün\x1b[0m" + r"\x1b[2J"
