"""The zygotes of a host: one of the worker's own interpreter, and those that workers had use for of late.

Each is started in the folder where it listens, with one end of a socket pair, by which it sees this process end and is
asked from time to time whether it still listens. One that dies or hangs costs starts a spawn, and is replaced after a
while. Nothing here talks to the broker, and no zygote is told any key.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_worker import inject
from flashq_worker.executor import zygote
from flashq_worker.scrub import scrubbed
from flashq_worker.zygote_places import OWN, Wish, ZygotePlaces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("flashq.host")
MOST = 8
"""Zygotes at once, beside that of the worker's own interpreter."""
KEPT_S = 3600.0
"""How long one is kept that nobody had use for."""
PING_S = 5.0
"""How often one is asked, and how long it has to answer."""
BEGIN_S = 120.0
"""How long it has until it listens."""
DIED_S = 60.0
"""How long none is started in place of one that died or hung."""
_LOOK_S = 1.0
_MOST_LOG_BYTES = 4 * 2**20


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    control: socket.socket
    answer_by: float
    """When it hangs, unless it has said something by then; infinite: it was asked nothing."""
    ask_at: float = float("inf")

    def heard(self, now: float) -> None:
        """Take in what it has said."""
        with contextlib.suppress(OSError):
            if self.control.recv(64):
                self.answer_by, self.ask_at = float("inf"), now + PING_S

    def ask(self, now: float) -> None:
        with contextlib.suppress(OSError):  # it has died, which is seen next
            self.control.send(zygote.PING)
        self.answer_by, self.ask_at = now + PING_S, float("inf")


class HostZygotes:
    """Call it from one thread, which lives as long as they do."""

    def __init__(self, home: Path, environ: Mapping[str, str], log_file: Path) -> None:
        """`environ`: what they inherit, less what is flashq's own."""
        self._home = home
        self._environ = {**scrubbed(environ), "CUDA_VISIBLE_DEVICES": ""}
        self._log_file = log_file
        self._places: ZygotePlaces | None = None
        self._inject = home
        self._running: dict[str, _Running] = {}
        self._not_before: dict[str, float] = {}
        self._look_at = 0.0

    def close(self) -> None:
        """End them all; what they forked goes on."""
        for name in list(self._running):
            self._end(name)

    def tend(self, *, may_start: bool) -> None:
        """Do what is due; at most one is started. Returns at once."""
        now = time.monotonic()
        for name, running in list(self._running.items()):
            running.heard(now)
            if running.process.poll() is not None:
                self._lost(name, f"has ended, with code {running.process.returncode}", now)
            elif now >= running.answer_by:
                self._lost(name, "hangs", now)
            elif now >= running.ask_at:
                running.ask(now)
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            try:
                self._follow_wishes(now, may_start=may_start)
            except OSError as error:
                log.warning("no zygotes for a while: %s", error)
                self._look_at = now + DIED_S

    def _follow_wishes(self, now: float, *, may_start: bool) -> None:
        if self._places is None:
            self._inject = inject.inject_folder(self._home)
            self._places = ZygotePlaces(self._home, self._inject)
            self._places.make()
        self._places.wish(OWN)
        wanted = [wish for wish in self._places.wishes() if wish.age_s < KEPT_S][: MOST + 1]
        names = {wish.name for wish in wanted}
        for name in self._running.keys() - names:
            log.info("zygote %s is no longer wanted", name)
            self._end(name)
            self._places.forget(name)
        due = [
            wish
            for wish in wanted
            if wish.name not in self._running and now >= self._not_before.get(wish.name, 0.0)
        ]
        if due and may_start:
            self._start(due[0], self._places, now)

    def _start(self, wish: Wish, places: ZygotePlaces, now: float) -> None:
        self._not_before = {name: until for name, until in self._not_before.items() if until > now}
        ours, theirs = socket.socketpair()
        output = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(output).st_size > _MOST_LOG_BYTES:
                os.truncate(output, 0)
            boot = self._inject / "flashq_worker" / "executor" / "boot.py"
            arguments = ["zygote", str(self._inject), str(theirs.fileno()), places.socket(wish.name).name]
            process = subprocess.Popen(
                [wish.python, "-I", boot, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                cwd=places.folder,
                env=self._environ,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            log.warning("zygote %s cannot be started: %s", wish.name, error)
            self._not_before[wish.name] = now + DIED_S
            return
        finally:
            theirs.close()
            os.close(output)
        ours.setblocking(False)
        self._running[wish.name] = _Running(process, ours, answer_by=now + BEGIN_S)
        log.info("zygote %s is process %d", wish.name, process.pid)

    def _lost(self, name: str, how: str, now: float) -> None:
        log.warning("zygote %s (process %d) %s", name, self._running[name].process.pid, how)
        self._end(name)
        self._not_before[name] = now + DIED_S

    def _end(self, name: str) -> None:
        running = self._running.pop(name)
        running.process.kill()
        running.process.wait()
        running.control.close()
