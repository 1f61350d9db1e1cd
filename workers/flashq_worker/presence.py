"""A worker's record in the broker, and what it reads there to begin: its endpoint, its code, its values of env."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from typing import TYPE_CHECKING

from flashq import __version__, codec
from flashq.codec import Revision
from flashq.errors import ConfigurationError, JobNotFound, WrongBinding
from flashq.model.envelope import open_sealed
from flashq.model.keyring import Direction
from flashq.store import workers
from flashq.store.broker import Broker
from flashq.store.command import Value, text
from flashq_worker import verdicts
from flashq_worker.exit_policy import ExitCode

if TYPE_CHECKING:
    from flashq_worker.assignment import LiveKeys
    from flashq_worker.config import WorkerConfig

log = logging.getLogger("flashq.worker")
MOST_LOG_BYTES = 1024 * 1024
_LAST_WORD_S = 1.0
HOPELESS = 2  # starts in a row that would fail again: then the waiting jobs are told


class Presence:
    """Blocking calls around the supervisor's loop: joining, reading records, becoming ready, leaving."""

    def __init__(self, broker: Broker, config: WorkerConfig, keys: LiveKeys) -> None:
        self._broker = broker
        self._config = config
        self._keys = keys
        self._records: dict[str, Revision] = {}
        self.now_ms = 0
        self.env_tag = ""
        self.resources = ""
        self._ordered_ms = 0
        self._joined_ms = 0
        self._ready_ms = 0
        self._joined_at = 0.0  # when that was, by this host's clock
        self._began = time.monotonic()

    def join(self) -> ExitCode | None:
        """Report in; an exit code where there is no use in going on."""
        config = self._config
        fields: dict[str, Value] = {
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": "",
            "version": __version__,
            "python_version": platform.python_version(),
            **workers.facts(
                host=config.host,
                gpus=config.gpu_uuids,
                cpus=config.cpus,
                keys=self._keys.ids,
                takes_ms=int(config.lease_s * 1000),
            ),
        }
        asked_at = time.monotonic()
        joined = self._broker.run(
            self._broker.transitions.join(
                config.endpoint,
                config.worker,
                lease_ms=int(config.lease_s * 1000),
                booked=config.booked,
                fields=fields,
            )
        )
        self._joined_at = (asked_at + time.monotonic()) / 2
        self.now_ms = self._joined_ms = joined.now_ms
        self._ordered_ms = joined.ordered_ms
        if not self._ordered_ms:  # started by hand: as if ordered when its process was made
            began_s = config.spawned_ns / 1e9 if config.spawned_ns else self._began
            self._ordered_ms = joined.now_ms - int((time.monotonic() - began_s) * 1000)
        if joined.verdict == "gone":
            return ExitCode.LOST
        if joined.verdict == "held":
            if config.booked:
                log.error("GPU %s: not this worker's any more", joined.holder)
                return ExitCode.LOST
            raise ConfigurationError(f"GPU {joined.holder}")
        if joined.verdict == "unknown":
            raise JobNotFound(f"there is no endpoint {config.endpoint!r}; call it once, and it is registered")
        return None

    def _field(self, name: str) -> bytes:
        value = self._broker.execute("HGET", self._broker.keys.of("endpoint", self._config.endpoint), name)
        return value or b""

    def first_revision(self) -> str:
        """The digest of the revision to begin with: the current one, if it wants what this worker was given."""
        current, resources = text(self._field("revision")), text(self._field("resources"))
        self.resources = self._config.resources or resources
        return current if self.resources == resources else self._config.revision or current

    def version(self) -> int:
        """Counts the registrations of the endpoint that changed something."""
        return int(self._field("version") or 0)

    def record(self, digest: str) -> Revision:
        """A revision's record, verified.

        Raises: EnvelopeError; JobNotFound where the broker keeps it no longer; PythonMismatch where it cannot be
        unpickled here.
        """
        found = self._records.get(digest)
        if found is None:
            endpoint = self._config.endpoint
            raw = self._broker.execute("GET", self._broker.keys.of("revision", endpoint, digest))
            if raw is None:
                raise JobNotFound(
                    f"revision {digest[:12]} of {endpoint} is kept no longer; submit the call again"
                )
            opened = open_sealed(raw, self._keys, direction=Direction.REVISION, endpoint=endpoint)
            if opened.header.revision != digest:
                raise WrongBinding(
                    f"a record of revision {opened.header.revision[:12]} is filed under {digest[:12]}"
                )
            verdicts.check_cloudpickle(opened.header, codec.cloudpickle_version())
            found = Revision.unpack(opened.payload)
            self._records = {digest: found}  # the one in use; others are read again when wanted
        return found

    def environment_values(self) -> dict[str, str]:
        """The values of `env=`, opened; `env_tag` names them from then on."""
        self.env_tag = text(self._field("env_tag"))
        raw = self._field("env")
        return codec.open_environment(raw, self._keys, self._config.endpoint) if raw else {}

    def ready(self, environment_s: float) -> bool:
        """The executor has loaded, in an environment that took so long; False where the broker has given this up."""
        cold_ms = (time.monotonic() - self._began) * 1000 + max(0, self._joined_ms - self._ordered_ms)
        cold_ms -= environment_s * 1000  # built once: the next start finds it
        fields = workers.facts(cold_ms=round(cold_ms, 3), building_ms=0)
        verdict = self._broker.run(
            self._broker.transitions.ready(self._config.endpoint, self._config.worker, fields)
        )
        return verdict == "ok"

    def broker_ms(self, local: float) -> int:
        """A time of this host's monotonic clock, in seconds, by the broker's."""
        return self._joined_ms + round((local - self._joined_at) * 1000)

    def local_time(self, broker_ms: int) -> float:
        """A time of the broker's clock by this host's monotonic one, in seconds."""
        return self._joined_at + (broker_ms - self._joined_ms) / 1000

    def leave(self, why: str) -> None:
        """Be gone, in order."""
        self._broker.run(self._broker.transitions.leave(self._config.endpoint, self._config.worker, why))

    def last_word(self, why: str) -> None:
        """`leave` on a connection of its own, without patience: whoever may be at the other one is not waited for."""
        config = self._config
        broker = Broker(config.url, prefix=config.prefix, patience_s=0.0, reply_timeout_s=_LAST_WORD_S)
        broker.run(broker.transitions.leave(config.endpoint, config.worker, why))

    def leave_unstarted(self, why: str, revision: str, *, deterministic: bool) -> None:
        """Say that this worker could not start; after two starts that would fail again, tell the waiting jobs.

        Those of `revision`, that is: the one that failed; empty where it is not known.
        """
        config, transitions = self._config, self._broker.transitions
        hopeless = self._broker.run(
            transitions.leave(
                config.endpoint, config.worker, why, before_ready=True, deterministic=deterministic
            )
        )
        if hopeless < 0:  # it had left: with this very word, whose answer was lost
            hopeless = int(self._field("broken") or 0)
        if deterministic and revision and hopeless >= HOPELESS:
            message = f"endpoint {config.endpoint} cannot start: {why}"
            while self._broker.run(transitions.fail_waiting(config.endpoint, revision, message)) >= 500:
                continue
