"""The zygotes of a host: one of the worker's own interpreter, and those that workers had use for of late.

Each is started in the folder where it listens, with one end of a socket pair, by which it sees this process end and is
asked from time to time whether it still listens. One that dies or hangs costs starts a spawn, and is replaced after a
while. Nothing here talks to the broker, and no zygote is told any key.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from flashq_worker import inject
from flashq_worker.executor import zygote
from flashq_worker.executor_variables import variables
from flashq_worker.zygote_places import OWN, Kind, Wish, ZygotePlaces
from flashq_worker.zygote_process import ZygoteProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("flashq.host")
MOST = 8
"""Zygotes at once, beside that of the worker's own interpreter."""
KEPT_S = 3600.0
"""How long one is kept that nobody had use for."""
BEGIN_S = 300.0
"""How long it has until it listens: what it imports ahead it tries first."""
DIED_S = 60.0
"""How long none is started in place of one that died or hung."""
_LOOK_S = 1.0
_MOST_LOG_BYTES = 4 * 2**20


class HostZygotes:
    """Call it from one thread, which lives as long as they do."""

    def __init__(self, home: Path, environ: Mapping[str, str], log_file: Path) -> None:
        """`environ`: what they inherit, less what is flashq's own."""
        self._home = home
        self._environ = environ
        self._log_file = log_file
        self._inject = home
        self._places: ZygotePlaces | None = None
        self._running: dict[str, ZygoteProcess] = {}
        self._successors: dict[str, ZygoteProcess] = {}
        """They import more than the one of that name that listens, and do not listen yet."""
        self._retired: list[ZygoteProcess] = []
        """They listen no more, and end with the last executor that they forked."""
        self._not_before: dict[str, float] = {}
        self._likely: list[str] = []
        """The names of those that are kept, the one wanted last first."""
        self._look_at = 0.0

    @property
    def likeliest(self) -> tuple[Path, int] | None:
        """Where the one listens that was wanted last, and its process id; None where none listens."""
        for name in self._likely:
            if self._places is not None and name in self._running:
                return self._places.socket(name), self._running[name].process.pid
        return None

    def close(self) -> None:
        """End them all; what they forked goes on."""
        for running in (*self._running.values(), *self._successors.values(), *self._retired):
            running.end()
        self._running, self._successors, self._retired = {}, {}, []

    def tend(self, *, may_start: bool) -> None:
        """Do what is due; at most one is started. Returns at once."""
        now = time.monotonic()
        for names in (self._running, self._successors):
            for name, running in list(names.items()):
                self._watch(names, name, running, now)
        for running in list(self._retired):
            if running.process.poll() is not None:
                running.end()
                self._retired.remove(running)
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            try:
                self._follow_wishes(now, may_start=may_start)
            except OSError as error:
                log.warning("no zygotes for a while: %s", error)
                self._look_at = now + DIED_S

    def _watch(self, names: dict[str, ZygoteProcess], name: str, running: ZygoteProcess, now: float) -> None:
        if how := running.trouble(now):
            log.warning("zygote %s (process %d) %s", name, running.process.pid, how)
            names.pop(name).end()
            self._not_before[name] = now + DIED_S
        elif names is self._successors and running.listens:
            self._retire(name)
            self._running[name] = self._successors.pop(name)

    def _retire(self, name: str) -> None:
        """Have one listen no more; its executors keep their parent."""
        if name in self._running:
            retired = self._running.pop(name)
            retired.say(zygote.RETIRE)
            self._retired.append(retired)

    def _follow_wishes(self, now: float, *, may_start: bool) -> None:
        if self._places is None:
            self._inject = inject.inject_folder(self._home)
            self._places = ZygotePlaces(self._home, self._inject)
            self._places.make()
        places = self._places
        wanted = [wish for wish in places.wishes() if wish.age_s < KEPT_S][:MOST]
        own = places.name(Kind(OWN))
        if own is not None and own not in (wish.name for wish in wanted):
            wanted.append(Wish(own, Kind(OWN), 0.0))
        names = {wish.name for wish in wanted}
        self._likely = [wish.name for wish in wanted]
        for name in self._running.keys() - names:
            log.info("zygote %s is no longer wanted", name)
            self._retire(name)
            places.forget(name)
            places.tidy(names)
        for wish in wanted:
            if may_start and not self._successors and now >= self._not_before.get(wish.name, 0.0):
                noted_at = _noted_at(places, wish)
                running = self._running.get(wish.name)
                if running is None or running.noted_at != noted_at:
                    self._start(wish, places, noted_at, now)
                    return

    def _start(self, wish: Wish, places: ZygotePlaces, noted_at: int, now: float) -> None:
        self._not_before = {name: until for name, until in self._not_before.items() if until > now}
        kind, modules = wish.kind, places.modules(wish.kind.environment)
        environ = variables(self._environ, self._home, kind.cpus)
        environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # so that asking for GPUs does not initialise CUDA
        environ.pop("CUDA_VISIBLE_DEVICES", None)
        if not kind.gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        ours, theirs = socket.socketpair()
        output = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(output).st_size > _MOST_LOG_BYTES:
                os.truncate(output, 0)
            boot = self._inject / "flashq_worker" / "executor" / "boot.py"
            place = places.socket(wish.name).name
            ahead = modules.name if noted_at and modules is not None else ""
            process = subprocess.Popen(
                [
                    *(places.python(kind.environment), "-I", boot),
                    *("zygote", str(self._inject), str(theirs.fileno()), place, ahead),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                cwd=places.folder,
                env=environ,
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
        started = ZygoteProcess(process, ours, noted_at, answer_by=now + BEGIN_S)
        self._successors[wish.name] = started
        log.info("zygote %s is process %d", wish.name, process.pid)


def _noted_at(places: ZygotePlaces, wish: Wish) -> int:
    """When what is to be imported ahead was noted last; 0: nothing is."""
    modules = places.modules(wish.kind.environment)
    if not wish.kind.ahead or modules is None:
        return 0
    try:
        return modules.stat().st_mtime_ns
    except OSError:
        return 0
