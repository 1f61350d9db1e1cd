"""The supervisor: joins, claims, has what was claimed run (see `execution`), drains and leaves.

One thread waits on everything at once: the executor's frames and output, the broker (see `exchange`), and what
the lease thread and signals have to say. User code runs in the executor alone; here payloads are bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from flashq.errors import BrokerError, EnvelopeError, FlashqError, PythonMismatch, WrongBinding
from flashq.store.broker import Broker
from flashq.store.workers import facts
from flashq_worker import assignment, presence, verdicts
from flashq_worker.calls_link import CallsLink
from flashq_worker.exchange import Exchange
from flashq_worker.execution import Execution
from flashq_worker.exit_policy import ExitCode, Standing, exit_code
from flashq_worker.hand import Hand
from flashq_worker.lease import LeaseKeeper, renew_every_s
from flashq_worker.loading import Loading
from flashq_worker.outcomes import OutcomeWriter
from flashq_worker.pacing import PATIENCE_S, Pace
from flashq_worker.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.model.outcome import Failure
    from flashq.store.command import Value
    from flashq.store.records import Claimed
    from flashq_worker.assignment import Assignment, LiveKeys, Stop
    from flashq_worker.config import WorkerConfig
    from flashq_worker.executor_start import Parked
    from flashq_worker.held_keys import KeyWords

log = logging.getLogger("flashq.worker")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_WAIT_S = 5.0
_AGAIN_S = 0.2  # while the broker cannot be asked what to load


class Supervisor:
    """One worker of one endpoint, from joining to leaving."""

    def __init__(
        self,
        config: WorkerConfig,
        keys: LiveKeys,
        lifeline: int | None = None,
        words: KeyWords | None = None,
        parked: Parked | None = None,
    ) -> None:
        """`words`: where further keys come from, if from anywhere. `parked`: an executor for the first start."""
        self.config = config
        self._keys = keys
        self._words = words
        self._lifeline = lifeline
        self._broker = Broker(config.url, prefix=config.prefix)
        self._hand = Hand()
        self._pace = Pace()
        self._exchange = Exchange(self._broker, config, self._hand, self._pace, self)
        self._presence = presence.Presence(self._broker, config, keys)
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._runtime = Runtime(config, self._wake, parked)
        self._loading = Loading(self._runtime, self._presence, self)
        self._link = CallsLink(config.calls, config.payload_limit) if config.calls >= 0 else None
        self._execution = Execution(
            self._hand,
            self._runtime,
            self._loading,
            self._exchange,
            presence=self._presence,
            outcomes=OutcomeWriter(keys, config.endpoint, config.payload_limit),
            pace=self._pace,
            grace_s=config.grace_s,
            link=self._link,
        )
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        self._verdicts: deque[tuple[str, Mapping[tuple[str, int], str]]] = deque()
        self._signals = 0
        self._draining = False
        self._drain_until = float("inf")
        self._gone = False
        self._building_since: float | None = None  # as last told
        every_s = renew_every_s(config.lease_s)
        self._lease = LeaseKeeper(
            Broker(config.url, prefix=config.prefix, patience_s=min(1.0, every_s), reply_timeout_s=every_s),
            config.endpoint,
            config.worker,
            lease_s=config.lease_s,
            jobs=self._hand.leases,
            fields=self._vitals,
            on_renewed=self._keepalive,
            on_verdict=self._on_verdict,
        )

    # -- from start to end ---------------------------------------------------------------------------
    def run(self) -> ExitCode:
        """Work until told to end, or until there is no use in going on."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            given_up = self._presence.join()
            if given_up is not None:
                return given_up
            self._lease.start()
            while not self._signals and not self._execution.terms(self._loading.begin()):
                if self._orphaned(_AGAIN_S):
                    self._abandon()
            return self._loop()
        except FlashqError as error:
            log.exception("the worker cannot go on")
            deterministic = isinstance(error, EnvelopeError | PythonMismatch)
            return self._fail_start(str(error), self._loading.revision, deterministic=deterministic)
        finally:
            for number in _SIGNALS:  # it ends already: one more must not turn that into a death
                signal.signal(number, signal.SIG_IGN)
            self._lease.stop()
            self._runtime.close()
            self._exchange.close()

    def _loop(self) -> ExitCode:
        while True:
            self._exchange.connect()
            self._progress()
            standing = Standing(
                draining=self._draining,
                gone=self._gone,
                start_failed=self._loading.failed,
                holding=len(self._hand),
                unsettled=self._exchange.unsettled,
            )
            code = exit_code(standing)
            if code is not None:
                return self._end(code)
            self._wait()

    def _end(self, code: ExitCode) -> ExitCode:
        if code is ExitCode.NOT_STARTED:
            loading = self._loading
            return self._fail_start(loading.failure, loading.revision, deterministic=loading.deterministic)
        if code is ExitCode.LEFT:
            self._runtime.end(
                self._execution.echo.write
            )  # before it says so: what it held of the host is free by then
            with contextlib.suppress(BrokerError):
                self._presence.leave("left")
        log.info("worker %s ends: %s", self.config.worker, code.name)
        return code

    def _fail_start(self, why: str, revision: str, *, deterministic: bool) -> ExitCode:
        log.error("cannot start: %s", why)
        with contextlib.suppress(BrokerError):
            self._presence.leave_unstarted(why, revision, deterministic=deterministic)
        return ExitCode.NOT_STARTED

    # -- waiting -------------------------------------------------------------------------------------
    def _wait(self) -> None:
        self._watch()
        ready = {fd for fd, _ in self._poll.poll(max(0.0, (self._due_at() - time.monotonic()) * 1000))}
        if self._wake_r in ready:
            self._on_wake()
        if self._words is not None and self._words.descriptor in ready:
            self._words.receive()
        if self._lifeline is not None and self._lifeline in ready:
            self._abandon()
        self._execution.receive(ready)
        self._exchange.receive(ready)

    def _orphaned(self, within_s: float) -> bool:
        """Whether the host agent is gone; it is watched for so long."""
        if self._lifeline is None:
            time.sleep(within_s)
            return False
        return bool(select.select([self._lifeline], [], [], within_s)[0])

    def _abandon(self) -> NoReturn:
        """The host agent is gone, and nobody will see this worker end: end it, and say so if the broker hears it."""
        log.error("the host agent is gone")
        self._runtime.close()  # before it says so: what it held of the host is free by then
        with contextlib.suppress(BrokerError):
            self._presence.last_word("its host agent ended")
        os._exit(ExitCode.LOST)

    def _watch(self) -> None:
        """Have what is to be waited for registered, where that has changed."""
        wanted = {self._wake_r: select.POLLIN}
        if self._lifeline is not None:
            wanted[self._lifeline] = select.POLLIN
        if self._words is not None and self._words.descriptor is not None:
            wanted[self._words.descriptor] = select.POLLIN
        for fd in self._exchange.readers():
            wanted[fd] = select.POLLIN
        for fd in self._execution.readers():
            wanted[fd] = select.POLLIN
        for fd in self._execution.writers():
            wanted[fd] = select.POLLIN | select.POLLOUT
        if wanted != self._polled:
            self._poll = select.poll()
            self._polled = wanted
            for fd, events in wanted.items():
                self._poll.register(fd, events)

    def _due_at(self) -> float:
        """When to look again though nothing happens."""
        due = [time.monotonic() + _LONGEST_WAIT_S, self._drain_until, self._loading.due_at]
        due += [self._exchange.act_by, self._execution.due_at]
        if not self._exchange.readers():
            due.append(self._exchange.due_at)
        elif self._may_claim and self._hand.room:
            due.append(self._exchange.look_at)
        return min(due)

    @property
    def _may_claim(self) -> bool:
        wanted = self._loading.may_claim and not (self._draining or self._execution.sated)
        return wanted and self._lease.in_touch

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"\0")

    def _on_signal(self, *_: object) -> None:
        self._signals += 1

    def _on_wake(self) -> None:
        os.read(self._wake_r, 4096)
        while self._verdicts:
            verdict, jobs = self._verdicts.popleft()
            self._gone = self._gone or verdict == "gone"
            if verdict == "drain":
                self.on_drain()
            for (job, fence), what in jobs.items():
                if what == "cancel":
                    self._execution.on_stop(job, "cancel")
                else:
                    self._execution.on_not_ours(job, fence)
        if self._signals:
            self.on_drain()
        if self._signals > 1:
            self._drain_until = 0.0

    # -- the lease thread's side ---------------------------------------------------------------------
    def _on_verdict(self, verdict: str, jobs: Mapping[tuple[str, int], str]) -> None:
        self._verdicts.append((verdict, jobs))
        self._wake()

    def _keepalive(self) -> None:
        process = self._runtime.process
        if process is not None:
            process.keepalive()

    def _vitals(self) -> dict[str, Value]:
        expected_s, since = self._pace.expected_s, self._runtime.building_since
        return facts(
            resources=self._presence.resources,
            revision=self._runtime.revision,
            keys=self._keys.ids,
            service_ms=None if expected_s is None else round(expected_s * 1000, 3),
            building_ms=0 if since is None else self._presence.broker_ms(since),
        )

    # -- what is due ---------------------------------------------------------------------------------
    def _progress(self) -> None:
        """Everything that can be done now without waiting."""
        self._execution.terms(self._loading.progress())
        if self._runtime.building_since != self._building_since:
            self._building_since = self._runtime.building_since
            self._lease.tell_soon()
        now = self._execution.progress()
        if now >= self._drain_until:
            self._give_everything_back()
        # Not for jobs so short that their outcome comes before anybody could want them stopped.
        listen = not self._hand.running or now >= self._hand.oldest_began_at + PATIENCE_S
        self._exchange.flush(may_claim=self._may_claim, listen=listen)

    # -- what is said of loading -----------------------------------------------------------------------
    def on_ready(self) -> None:
        """There may be work to claim."""
        self._exchange.look()

    def on_unstartable(self, revision: str, failure: Failure) -> None:
        """Code that cannot be started: its jobs fail."""
        self._execution.on_unstartable(revision, failure)

    def on_start_trouble(self, revision: str) -> None:
        """Code that did not start, though elsewhere it may: its jobs go back."""
        self._execution.on_start_trouble(revision)

    # -- what the broker says ------------------------------------------------------------------------
    def on_claimed(self, rows: tuple[Claimed, ...], begun: int) -> None:
        """Verify what was claimed; what passes waits for its turn."""
        for index, row in enumerate(rows):
            try:
                held = assignment.verify(
                    row,
                    self._keys,
                    self.config.endpoint,
                    now_ms=self._exchange.now_ms(),
                    limit=self.config.payload_limit,
                )
                if self._exchange.completed(row.job):
                    raise WrongBinding("this call was completed here before: it is replayed")
            except FlashqError as error:
                log.warning("job %s is refused: %s", row.job, error)
                self._exchange.settle(verdicts.refused(row, error))
                continue
            held.began = index < begun
            if self._draining:
                self._exchange.release([held])
            else:
                self._hand.waiting.append(held)

    def on_started(self, held: Assignment, verdict: str) -> None:
        """What may begin only once may be run, or may not."""
        self._execution.on_started(held, verdict)

    def on_stop(self, job: str, why: Stop) -> None:
        """A job is to be interrupted."""
        self._execution.on_stop(job, why)

    def on_not_ours(self, job: str, fence: int) -> None:
        """A delivery is somebody else's by now."""
        self._execution.on_not_ours(job, fence)

    def on_taken(self, job: str, fence: int, number: int) -> None:
        """Somebody reads what a job yields."""
        self._execution.on_taken(job, fence, number)

    def on_drain(self) -> None:
        """Take nothing more; what has not begun goes back at once."""
        if not self._draining:
            self._draining = True
            self._drain_until = time.monotonic() + self.config.drain_s
            self._exchange.release(self._hand.take_waiting())

    def on_gone(self) -> None:
        """The broker gave this worker up; what it held is somebody else's."""
        self._gone = True

    def _give_everything_back(self) -> None:
        if self._hand:
            log.warning("not finished within %g s: %d job(s) go back", self.config.drain_s, len(self._hand))
            self._exchange.release([*self._hand.take_running(), *self._hand.take_waiting()])
        self._runtime.close()
        self._drain_until = float("inf")
