"""What a host keeps ready for the next start: one spare worker process, and zygotes of workers and of executors.

They are made while nothing else starts, so that they do not slow down the worker that is wanted.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from flashq_worker.host.zygotes import HostZygotes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq_worker.host.home import HostHome
    from flashq_worker.host.workers import HostWorkers

log = logging.getLogger("flashq.host")
_SPARE = "spare"  # its log's name
_ZYGOTES = "zygotes"
_WORKERS = "workers"
_PAUSE_S = 0.3  # after a start
_PATIENCE_S, _TURN_S = (
    4.0,
    3.0,
)  # without a pause, until zygotes are started all the same; for how long they may be
_SHORT_PAUSE_S = 0.02  # the same, where what follows is cheap
_BEGINS_S = 0.05  # how often it is looked whether the zygote of workers listens
_DIED_S = 60.0  # after a spare has died unused


class HostWarm:
    """Call it from one thread, which lives as long as what it keeps."""

    def __init__(
        self, home: HostHome, environ: Mapping[str, str], workers: HostWorkers, *, wanted: bool
    ) -> None:
        """`wanted`: whether anything is to be kept ready at all."""
        self._home = home
        self._workers = workers
        self._zygotes = HostZygotes(home.folder, environ, home.log_file(_ZYGOTES))
        self._wanted = wanted
        self._spare_at = 0.0
        self._had_spare = False
        self._started_at = -_PAUSE_S
        self._quiet_at = float("-inf")  # when no worker had been started for a pause, last

    def tend(self) -> None:
        """Do what is due; returns at once."""
        if not self._wanted:
            return
        now = time.monotonic()
        quiet = now >= self._started_at + _PAUSE_S
        self._zygotes.tend(may_start=quiet or self._is_never_quiet(now, quiet=quiet))
        self._workers.keep_zygote(self._home.log_file(_WORKERS), may_start=quiet and self._had_spare)
        if now >= self._next_spare_at and not self._workers.will_fork:
            self._keep_spare(now)
            likeliest = self._zygotes.likeliest
            if likeliest is not None:
                self._workers.park(*likeliest)

    def _is_never_quiet(self, now: float, *, quiet: bool) -> bool:
        """Whether workers have been started all the time for long: zygotes get a turn all the same, for a while."""
        if quiet or now >= self._quiet_at + _PATIENCE_S + _TURN_S:
            self._quiet_at = now
        return now >= self._quiet_at + _PATIENCE_S

    @property
    def due_at(self) -> float:
        """When to `tend` again though nothing happens."""
        if not self._wanted or self._workers.prepared:
            return float("inf")
        return time.monotonic() + _BEGINS_S if self._workers.will_fork else self._next_spare_at

    @property
    def _next_spare_at(self) -> float:
        return max(self._spare_at, self._started_at + (_SHORT_PAUSE_S if self._workers.forks else _PAUSE_S))

    def started(self) -> None:
        """A worker was started now."""
        self._started_at = time.monotonic()

    def drain(self) -> None:
        """No worker will be started any more; those there may still start executors."""
        self._wanted = False
        self._workers.drop_spare()

    def close(self) -> None:
        """Let go of it all."""
        self._zygotes.close()

    def _keep_spare(self, now: float) -> None:
        """Have the next worker's imports done before it is asked for."""
        try:
            if self._workers.prepare(self._home.log_file(_SPARE)):
                self._had_spare = True
                return
            why = self._home.tail(_SPARE)
        except OSError as error:
            why = str(error)
        log.warning("no spare worker for a while: %s", why)
        self._spare_at = now + _DIED_S
