"""What this host prepares of apps, before traffic: artifacts, environments and images, on a thread of its own.

Each order names a signed revision; whether it has all that this needs is written to the broker, for whoever deploys.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from flashq import codec
from flashq.apps import records, storage
from flashq.errors import BrokerError, FlashqError, WrongBinding
from flashq.model.envelope import open_sealed
from flashq.model.host_command import PrepareRevision
from flashq.model.keyring import Direction
from flashq.store.broker import Broker
from flashq.store.command import text
from flashq_worker import verdicts
from flashq_worker.apps import Apps
from flashq_worker.containers import images
from flashq_worker.containers.container import needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flashq.model.envelope import RootKeys

log = logging.getLogger("flashq.host")
REPORTED_MS = 86_400_000
"""How long the broker keeps what a host has said."""


class HostApps:
    """`prepare` and `close` are called by the agent's thread, and return at once."""

    def __init__(
        self,
        broker: Broker,
        host: str,
        home: Path,
        keyring: RootKeys,
        environ: Mapping[str, str],
        engine: str,
    ) -> None:
        self._url, self._prefix = broker.url, broker.keys.prefix
        self._key = broker.keys.of("prepared", host)
        self._keyring, self._environ, self._engine = keyring, environ, engine
        self._apps = Apps(home, self._fetch)
        self._orders: deque[PrepareRevision | None] = deque()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Have prepared what was deployed before this host was there: its first workers then find it."""
        self._soon(None)

    def prepare(self, order: PrepareRevision) -> None:
        """Have a revision prepared, after those that wait."""
        self._soon(order)

    def _soon(self, order: PrepareRevision | None) -> None:
        """None: all that is deployed."""
        with self._lock:
            self._orders.append(order)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="apps", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._orders:
                    self._thread = None
                    return
                order = self._orders.popleft()
            try:
                for each in self._deployed() if order is None else [order]:
                    self._prepared(each)
            except BrokerError as error:  # whoever deploys waits in vain, and says so
                log.warning("what is to be prepared cannot be asked, or told: %s", error)

    def _deployed(self) -> list[PrepareRevision]:
        """The current revisions of all endpoints of apps."""
        with contextlib.closing(Broker(self._url, prefix=self._prefix)) as broker:
            found = []
            for name in {name for app in records.deployed(broker) for name in app.endpoints.values()}:
                revision = text(broker.execute("HGET", broker.keys.of("endpoint", name), "revision") or b"")
                raw = broker.execute("GET", broker.keys.of("revision", name, revision))
                if raw:
                    found.append(PrepareRevision(name, revision, raw))
            return found

    def _prepared(self, order: PrepareRevision) -> None:
        began = time.monotonic()
        self._report(order, "preparing")
        try:
            self._make(order)
        except (FlashqError, OSError) as error:
            log.warning("revision %s of %s: %s", order.revision[:12], order.endpoint, error)
            self._report(order, "failed", str(error)[-2000:])
        else:
            took_s = time.monotonic() - began
            log.info("revision %s of %s is ready, in %.1f s", order.revision[:12], order.endpoint, took_s)
            self._report(order, "ready")

    def _make(self, order: PrepareRevision) -> None:
        opened = open_sealed(
            order.record, self._keyring, direction=Direction.REVISION, endpoint=order.endpoint
        )
        if opened.header.revision != order.revision:
            raise WrongBinding(f"the record of revision {order.revision[:12]} is another's")
        verdicts.check_cloudpickle(opened.header, codec.cloudpickle_version())
        record = codec.Revision.unpack(opened.payload)
        if image := str(needs(record).get("image") or ""):
            images.provide(
                image, self._environ, functools.partial(log.info, "image: %s"), engine=self._engine
            )
        self._apps.prepare(record, functools.partial(log.info, "app: %s")).release()

    def _report(self, order: PrepareRevision, state: str, why: str = "") -> None:
        said = json.dumps({"state": state, "why": why})
        with contextlib.closing(Broker(self._url, prefix=self._prefix)) as broker:
            broker.execute_all(
                [("HSET", self._key, order.revision, said), ("PEXPIRE", self._key, REPORTED_MS)]
            )

    def _fetch(self, artifact: str) -> Iterator[bytes]:
        with contextlib.closing(Broker(self._url, prefix=self._prefix)) as broker:
            yield from storage.chunks(broker, artifact)
