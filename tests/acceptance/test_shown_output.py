"""A caller on a terminal sees what its job prints, as it prints it; elsewhere nothing is shown."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.stage import PREAMBLE, Stage, environment, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

SCRIPT = (
    PREAMBLE
    + """
from flashq import Endpoint

@Endpoint(name="talks", cpu="any")
def talks(gate):
    import os, time
    print("first \\x1b]0;owned\\x07 line")
    while not os.path.exists(gate):
        time.sleep(0.01)
    print("last line")
    return "value"

print(talks.remote(sys.argv[1]))
"""
)


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_on_a_terminal_lines_come_while_the_caller_waits(theatre: Stage) -> None:
    # Given a program whose stderr is a terminal
    folder = theatre.folder()
    (folder / "script.py").write_text(SCRIPT)
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # nobody has the other end any more
                return
            if not piece:
                return
            seen.extend(piece)

    gate = folder / "gate"
    program = subprocess.Popen(
        [sys.executable, "script.py", str(gate)],
        cwd=folder,
        env=environment(theatre),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    theatre.serve("talks")

    # Expect the first line while the job runs, steering nothing; the last one, and the value, when it has ended
    wait_until(lambda: b"line" in seen, what="its first line")
    assert not gate.exists()
    gate.touch()
    assert program.communicate(timeout=30)[0] == "value\n"
    reader.join(10)
    os.close(ours)
    lines = [line for line in re.split(rb"\r?\n", bytes(seen)) if b" | " in line]
    assert lines == [b"talks | first \\x1b]0;owned\\x07 line", b"talks | last line"]


def test_in_a_pipe_nothing_is_shown(theatre: Stage) -> None:
    folder = theatre.folder()
    (folder / "gate").touch()
    source = SCRIPT.removeprefix(PREAMBLE)
    program = theatre.start(source, str(folder / "gate"), serve="talks")
    assert program.ended() == 0
    assert program.output == "value\n"
    assert "line" not in program.errors
