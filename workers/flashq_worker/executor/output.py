"""stdout and stderr of the executor: a pipe to the supervisor, written line by line.

Where several jobs run at once, a pipe does not tell whose a line is: `JobOutput` sends each job's lines by themselves.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from flashq_worker.executor import delivery

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 1 << 20
"""Of one run of a job: what it prints beyond goes to the worker's log alone."""
_LONGEST = 1 << 16  # characters of a line that are waited for


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


def _nowhere(job: str, fence: int, lines: str) -> bool:
    return False


def tell_jobs_apart() -> None:
    """Several jobs will run at once: whoever keeps stdout or stderr from here on keeps one that tells them apart."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, JobOutput(getattr(sys, name)))


class JobOutput(io.TextIOBase):
    """Stands for stdout or stderr: what a job writes, in its task or a thread that has its context, is sent as its own.

    `plain` is the stream itself, for all other text, and for bytes.
    """

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self._send: Callable[[str, int, str], bool] = _nowhere
        self._begun: dict[tuple[str, int], str] = {}  # lines that have not ended
        self._sent: dict[tuple[str, int], int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._plain.encoding)

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._plain.errors  # type: ignore[no-any-return]

    def fileno(self) -> int:
        return int(self._plain.fileno())

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._plain.flush()

    def send_by(self, send: Callable[[str, int, str], bool]) -> None:
        """`send` takes a job's id, its fence and its lines; False where that job does not run any more."""
        self._send = send

    def write(self, text: str) -> int:
        run = delivery.CURRENT.get()
        if run is None:
            return int(self._plain.write(text))
        of = (run[0], run[2])
        lines = self._begun.pop(of, "") + text
        whole, line_end, rest = lines.rpartition("\n")
        if len(rest) > _LONGEST:
            whole, rest = lines, ""
        if rest:
            self._begun[of] = rest
        if whole or line_end:
            self._pass_on(of, whole + line_end)
        return len(text)

    def end(self, job: str, fence: int) -> None:
        """A job has ended: what it wrote last goes before its outcome."""
        if rest := self._begun.pop((job, fence), ""):
            self._pass_on((job, fence), rest)
        self._sent.pop((job, fence), None)

    def _pass_on(self, of: tuple[str, int], lines: str) -> None:
        sent = self._sent.get(of, 0)
        if sent < MOST_BYTES and self._send(*of, lines):
            self._sent[of] = sent + len(lines)
        else:
            self._plain.write(lines)
