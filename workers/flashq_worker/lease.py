"""The worker's pulse: a thread that renews its heartbeat and the leases of its jobs, whatever the jobs do.

`jobs()` and `fields()` are called in this thread. It knows nothing of executors: it reports what the broker said
(`on_verdict`) and that it was said (`on_renewed`, which lets the executor live on). While the broker cannot be
reached it reports nothing, and the executor's own watchdog ends it after a lease. So the answer to a renewal counts
only while it is fresh: whoever makes the `broker` has its replies time out after `renew_every_s`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from flashq.errors import BrokerError
from flashq.store.transitions import REAP_AGAIN_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.store.broker import Broker
    from flashq.store.command import Value
    from flashq.store.records import Renewed

log = logging.getLogger("flashq.worker")
REAP_S = 1.0


def renew_every_s(lease_s: float) -> float:
    """How often a lease is renewed."""
    return lease_s / 3


def pause_s(every_s: float, *, failed: bool) -> float:
    """Until the next look; soon after one that failed, since the broker may be there for a moment only."""
    return min(REAP_S, every_s / 5 if failed else every_s)


class LeaseKeeper:
    """Renews every third of a lease, and reaps the endpoint about once a second, from a thread of its own."""

    def __init__(
        self,
        broker: Broker,
        endpoint: str,
        worker: str,
        *,
        lease_s: float,
        jobs: Callable[[], tuple[tuple[str, int], ...]],
        fields: Callable[[], Mapping[str, Value]],
        on_renewed: Callable[[], None],
        on_verdict: Callable[[str, Mapping[tuple[str, int], str]], None],
    ) -> None:
        self._broker = broker
        self._endpoint, self._worker = endpoint, worker
        self._lease_s, self._lease_ms = lease_s, int(lease_s * 1000)
        self._answered_at = time.monotonic()  # when the last renewal that was answered was sent
        self._every_s = renew_every_s(lease_s)
        self._jobs, self._fields = jobs, fields
        self._on_renewed, self._on_verdict = on_renewed, on_verdict
        self._news = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def in_touch(self) -> bool:
        """Whether a renewal of this lease was answered. If not, what is said may arrive, but nothing that it brings."""
        return time.monotonic() < self._answered_at + self._lease_s

    def start(self) -> None:
        self._answered_at = time.monotonic()
        self._thread.start()

    def tell_soon(self) -> None:
        """Renew within a second, since what `fields` says has changed; from any thread."""
        self._news = True

    def stop(self) -> None:
        """End the thread; what it is doing is finished first. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        next_renewal = time.monotonic() + self._every_s
        failed = False
        while not self._stop.wait(pause_s(self._every_s, failed=failed)):
            failed = True
            try:
                if (now := time.monotonic()) >= next_renewal or self._news:
                    self._news = False
                    self.renew()
                    next_renewal = now + self._every_s
                self._reap()
                failed = False
            except BrokerError as error:
                log.warning("cannot renew: %s", error)
            except Exception:  # without this thread every job here is taken away after a lease
                log.exception("cannot renew")

    def _reap(self) -> None:
        """Recover what stopped talking; where it is more than one step takes, go on for a while."""
        until = time.monotonic() + min(REAP_S, self._every_s) / 2
        command = self._broker.transitions.reap(self._endpoint, lease_ms=self._lease_ms)
        while self._broker.run(command).more and time.monotonic() < until:
            self._stop.wait(REAP_AGAIN_S)

    def renew(self) -> None:
        """One renewal.

        Raises: BrokerError.
        """
        jobs, sent_at = self._jobs(), time.monotonic()
        command = self._broker.transitions.renew(
            self._endpoint, self._worker, lease_ms=self._lease_ms, jobs=jobs, fields=self._fields()
        )
        renewed: Renewed = self._broker.run(command)
        if renewed.verdict == "gone":  # with all that it holds: of the jobs nothing is said
            self._on_verdict("gone", {})
            return
        self._answered_at = sent_at
        self._on_renewed()
        told = {job: verdict for job, verdict in zip(jobs, renewed.jobs, strict=True) if verdict != "ok"}
        if told or renewed.verdict != "ok":
            self._on_verdict(renewed.verdict, told)
