"""The environments of a host, as its agent looks after them: removed when due, listed in the broker.

Removing takes as long as the disk takes, so a thread does it. Listing is quick: a file for each environment.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING

from flashq_worker.environments import store as environment_store

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.store.broker import Broker
    from flashq_worker.environments.expiry import Expired, Limits

log = logging.getLogger("flashq.host")
SWEEP_EVERY_S = 600.0
LISTED_FOR_S = 86_400
"""How long the broker keeps the list of a host that says nothing more; a host's record likewise."""
_REPEAT_S = 3600.0  # how often a list is sent though it is the same


class HostEnvironments:
    """Call it from one thread; `tend` returns at once."""

    def __init__(self, broker: Broker, host: str, home: Path, limits: Limits) -> None:
        self._broker = broker
        self._key = broker.keys.of("host_environments", host)
        self._root = home / "environments"
        self._limits = limits
        self._sweeping: threading.Thread | None = None
        self._sweep_at = 0.0
        self._seen = -1
        self._said = ""
        self._repeat_at = 0.0

    def tend(self) -> None:
        """Do what is due; the list goes to the broker where it has changed. Raises BrokerError."""
        now = time.monotonic()
        try:
            changed = self._root.stat().st_mtime_ns
        except OSError:
            return  # none was ever made
        sweeping = self._sweeping is not None and self._sweeping.is_alive()
        if now >= self._sweep_at and not sweeping:
            self._sweep_at = now + SWEEP_EVERY_S
            self._sweeping = threading.Thread(target=self._sweep, name="environments", daemon=True)
            self._sweeping.start()
        elif changed != self._seen and not sweeping:
            self._list(now)
            self._seen = changed

    def _sweep(self) -> None:
        try:
            environment_store.sweep(self._root, self._limits, _tell)
        except OSError as error:
            log.warning("environments in %s are not tidied up: %s", self._root, error)
        self._seen = -1  # when each was used has changed

    def _list(self, now: float) -> None:
        found = json.dumps([one.as_dict() for one in environment_store.stored(self._root)])
        if found != self._said or now >= self._repeat_at:
            self._broker.execute_all(
                [("HSET", self._key, "listed", found), ("EXPIRE", self._key, LISTED_FOR_S)]
            )
            self._said, self._repeat_at = found, now + _REPEAT_S


def _tell(removed: Expired) -> None:
    log.info("environment %s is removed: %s", removed.digest[:12], removed.reason)
