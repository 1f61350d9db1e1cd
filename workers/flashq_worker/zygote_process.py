"""A zygote as its host agent has it: a process, and a socket by which it is asked whether it still listens."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_worker.executor import zygote

if TYPE_CHECKING:
    import socket
    import subprocess

PING_S = 5.0
"""How often one is asked, and how long it has to answer."""


@dataclass(slots=True)
class ZygoteProcess:
    """Times are seconds of one clock, given by the caller."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    noted_at: int
    """When what it imports ahead was noted: a file's time of change, in ns."""
    answer_by: float
    """When it hangs, unless it has said something by then; infinite: it was asked nothing."""
    ask_at: float = float("inf")
    listens: bool = False

    def heard(self, now: float) -> None:
        """Take in what it has said."""
        with contextlib.suppress(OSError):
            if self.control.recv(64):
                self.listens = True
                self.answer_by, self.ask_at = float("inf"), now + PING_S

    def say(self, word: bytes) -> None:
        """Tell it something."""
        with contextlib.suppress(OSError):  # it has died, which is seen next
            self.control.send(word)

    def ask(self, now: float) -> None:
        """Have it say that it still listens."""
        self.say(zygote.PING)
        self.answer_by, self.ask_at = now + PING_S, float("inf")

    def end(self) -> None:
        """Kill it; what it forked goes on."""
        self.process.kill()
        self.process.wait()
        self.control.close()

    def trouble(self, now: float) -> str:
        """What is wrong with it, for people; empty: nothing. It is asked where that is due."""
        self.heard(now)
        if self.process.poll() is not None:
            return f"has ended, with code {self.process.returncode}"
        if now >= self.answer_by:
            return "hangs"
        if now >= self.ask_at:
            self.ask(now)
        return ""
