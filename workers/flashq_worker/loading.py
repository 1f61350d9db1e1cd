"""Which revision a worker has loaded, and what is done where one does not load or the broker is away meanwhile.

Sits between the supervisor's loop and the `Runtime`: nothing here waits but for the broker's patience.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from flashq.errors import BrokerError, EnvelopeError, JobNotFound, PythonMismatch
from flashq.model.outcome import Failure, FailureKind
from flashq_worker.pacing import Backoff
from flashq_worker.runtime import Phase
from flashq_worker.starts import Next, Starts

if TYPE_CHECKING:
    from flashq.codec import Revision
    from flashq_worker.presence import Presence
    from flashq_worker.runtime import Runtime

log = logging.getLogger("flashq.worker")
_BROKER_S = (0.2, 2.0)  # pauses while the broker cannot be asked, beyond its patience


class Events(Protocol):
    """What becomes of jobs that wait for a revision."""

    def on_unstartable(self, revision: str, failure: Failure) -> None:
        """It does not start here or anywhere: its jobs fail."""

    def on_start_trouble(self, revision: str) -> None:
        """It did not start on this machine, now: its jobs may be run elsewhere."""

    def on_ready(self) -> None:
        """For the first time: there is something to claim for."""

    def on_gone(self) -> None:
        """The broker does not know this worker any more."""


class Loading:
    """`ready_once`: whether this worker has ever been ready; `failed`: it is to leave, saying `failure`.

    `deterministic`: a start of the same elsewhere would fail too. `revision`: the one that failed.
    """

    def __init__(self, runtime: Runtime, presence: Presence, events: Events) -> None:
        self._runtime = runtime
        self._presence = presence
        self._events = events
        self._starts = Starts()
        self._broker = Backoff(*_BROKER_S)
        self._pending = ""  # the revision that is to be loaded once a pause is over
        self._pending_at = 0.0
        self._known: set[str] = set()  # revisions that have loaded here
        self._refusal: Failure | None = None
        self.ready_once = False
        self.failed = False
        self.failure = ""
        self.deterministic = False
        self.revision = ""

    @property
    def may_claim(self) -> bool:
        """Whether a job could be begun, or will be when what is being loaded is."""
        return self.ready_once and not self.failed and not self._pending

    @property
    def due_at(self) -> float:
        """When to look again though nothing happens."""
        if self._pending:
            return min(self._pending_at, self._runtime.due_at)
        waiting = self._runtime.phase is Phase.READY and not self.ready_once
        return self._broker.until if waiting else self._runtime.due_at

    def begin(self) -> Revision | None:
        """Load the first revision; None where the broker is away, and it is to be tried again."""
        try:
            revision = self._presence.first_revision()
            self.revision = revision  # for the reason of leaving, if what follows raises
            record = self._presence.record(revision)
            self._runtime.prepare(revision, record, self._presence.environment_values())
        except BrokerError as error:
            self._away(error)
            return None
        self._broker.succeeded()
        return record

    def want(self, revision: str) -> Revision | None:
        """A job of this revision is next, and nothing runs: load it. Its record, where that has been begun."""
        now = time.monotonic()
        if revision == self._pending and now < self._pending_at:
            return None
        self._pending = ""
        try:
            if self._refuses(revision, now):
                return None
            record = self._presence.record(revision)
            values = self._presence.environment_values()
        except BrokerError as error:
            self._away(error)
            self._pending, self._pending_at = revision, self._broker.until
            return None
        except (JobNotFound, EnvelopeError, PythonMismatch) as error:
            self._events.on_unstartable(revision, Failure(FailureKind.REFUSED, str(error)))
            return None
        self._broker.succeeded()
        self._runtime.prepare(revision, record, values)
        return record

    def _refuses(self, revision: str, now: float) -> bool:
        """Whether it was found not to start, a short while ago; its jobs then fail at once."""
        if self._refusal is None or not self._starts.refuses(revision, now=now):
            return False
        if not self._starts.refused_at(self._presence.version()):
            return False
        self._events.on_unstartable(revision, self._refusal)
        return True

    def progress(self) -> Revision | None:
        """Move on what can be; the record of a revision whose loading was begun thereby."""
        runtime = self._runtime
        runtime.poll()
        if runtime.phase is Phase.READY:
            self._on_loaded(runtime.revision)
        elif runtime.phase is Phase.FAILED:
            self._on_failed(time.monotonic())
        if self._pending and time.monotonic() >= self._pending_at:
            return self.want(self._pending)
        return None

    def _on_loaded(self, revision: str) -> None:
        if revision not in self._known:
            self._known.add(revision)
        if self._starts.failures:
            self._starts.succeeded()
        if self.ready_once or time.monotonic() < self._broker.until:
            return
        start = self._runtime.start
        environment_s = 0.0 if start is None else start.environment_s
        try:
            known = self._presence.ready(environment_s)
        except BrokerError as error:
            self._away(error)
            return
        self._broker.succeeded()
        self.ready_once = True
        if known:
            self._events.on_ready()
        else:
            self._events.on_gone()

    def _on_failed(self, now: float) -> None:
        runtime = self._runtime
        revision, why = runtime.revision, runtime.failure
        deterministic = runtime.deterministic and revision not in self._known
        runtime.close()
        log.error("revision %s does not start: %s", revision[:12], why)
        if not self.ready_once:
            self._leave(revision, why, deterministic=deterministic)
            return
        try:
            version = self._presence.version()
        except BrokerError:
            version = -1  # as good as another one: it will be tried again
        follows = self._starts.failed(revision, deterministic=deterministic, version=version, now=now)
        if not deterministic:
            self._events.on_start_trouble(revision)
        if follows is Next.LEAVE:
            self._leave(revision, why, deterministic=False)
        elif follows is Next.REFUSE:
            self._refusal = Failure(FailureKind.START, why)
            self._events.on_unstartable(revision, self._refusal)
        else:
            self._pending, self._pending_at = revision, self._starts.pause.until

    def _leave(self, revision: str, why: str, *, deterministic: bool) -> None:
        self.failed = True
        self.revision, self.failure, self.deterministic = revision, why, deterministic

    def _away(self, error: BrokerError) -> None:
        if self._broker.failed(time.monotonic()):
            log.warning("%s; trying again", error)
