"""The supervisor: has the executor run what was claimed, and settles what became of each job.

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
from typing import TYPE_CHECKING, Any

from flashq.errors import BrokerError, EnvelopeError, FlashqError
from flashq.model.outcome import Failure, FailureKind
from flashq.store.broker import Broker
from flashq_worker import assignment, presence, verdicts
from flashq_worker.exchange import Exchange
from flashq_worker.executor.frames import Frame, FrameError, FrameType
from flashq_worker.exit_policy import ExitCode, Standing, exit_code
from flashq_worker.hand import Hand
from flashq_worker.lease import LeaseKeeper
from flashq_worker.outcomes import OutcomeWriter
from flashq_worker.pacing import PATIENCE_S, Pace
from flashq_worker.runtime import Phase, Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.records import Claimed
    from flashq_worker.assignment import Assignment, Stop
    from flashq_worker.config import WorkerConfig
    from flashq_worker.executor_process import ExecutorProcess

log = logging.getLogger("flashq.worker")
_LONGEST_WAIT_S = 5.0


class Supervisor:
    """One worker of one endpoint, from joining to leaving."""

    def __init__(self, config: WorkerConfig, lifeline: int | None = None) -> None:
        self.config = config
        self._lifeline = lifeline
        self._broker = Broker(config.url, prefix=config.prefix)
        self._hand = Hand()
        self._pace = Pace()
        self._exchange = Exchange(self._broker, config, self._hand, self._pace, self)
        self._presence = presence.Presence(self._broker, config)
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._runtime = Runtime(config, self._wake)
        self._outcomes = OutcomeWriter(config.keys, config.endpoint, config.payload_limit)
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        self._verdicts: deque[tuple[str, Mapping[str, str]]] = deque()
        self._signals = 0
        self._draining = False
        self._sated = False
        self._drain_until = float("inf")
        self._gone = False
        self._was_ready = False
        self._first_job = True
        self._logged: dict[str, int] = {}
        self._lease = LeaseKeeper(
            Broker(config.url, prefix=config.prefix, patience_s=1.0),
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
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            given_up = self._presence.join()
            if given_up is not None:
                return given_up
            self._lease.start()
            revision = self._presence.current_revision()
            record = self._presence.record(revision)
            self._hand.concurrency = record.concurrency
            self._runtime.prepare(revision, record, self._presence.environment_values())
            return self._loop()
        except FlashqError as error:
            log.exception("the worker cannot go on")
            return self._fail_start(str(error), deterministic=isinstance(error, EnvelopeError))
        finally:
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
                start_failed=self._runtime.phase is Phase.FAILED and not self._was_ready,
                holding=len(self._hand),
                unsettled=self._exchange.unsettled,
            )
            code = exit_code(standing)
            if code is not None:
                return self._end(code)
            self._wait()

    def _end(self, code: ExitCode) -> ExitCode:
        if code is ExitCode.NOT_STARTED:
            return self._fail_start(self._runtime.failure, deterministic=True)
        if code is ExitCode.LEFT:
            self._runtime.close()  # before it says so: what it held of the host is free by then
            with contextlib.suppress(BrokerError):
                self._presence.leave("left")
        log.info("worker %s ends: %s", self.config.worker, code.name)
        return code

    def _fail_start(self, why: str, *, deterministic: bool) -> ExitCode:
        log.error("cannot start: %s", why)
        with contextlib.suppress(BrokerError):
            self._presence.leave_unstarted(why, deterministic=deterministic)
        return ExitCode.NOT_STARTED

    # -- waiting -------------------------------------------------------------------------------------
    def _wait(self) -> None:
        self._watch()
        process = self._runtime.process
        ready = {fd for fd, _ in self._poll.poll(max(0.0, (self._due_at() - time.monotonic()) * 1000))}
        if self._wake_r in ready:
            self._on_wake()
        if self._lifeline is not None and self._lifeline in ready:
            log.error("the host agent is gone")
            self._runtime.close()
            os._exit(ExitCode.LOST)
        if process is not None:
            self._on_executor(process, ready)
        self._exchange.receive(ready)

    def _watch(self) -> None:
        """Have what is to be waited for registered, where that has changed."""
        wanted = {self._wake_r: select.POLLIN}
        if self._lifeline is not None:
            wanted[self._lifeline] = select.POLLIN
        for fd in self._exchange.readers():
            wanted[fd] = select.POLLIN
        process = self._runtime.process
        if process is not None:
            for fd in process.readers():
                wanted[fd] = select.POLLIN
            for fd in process.writers():
                wanted[fd] = select.POLLIN | select.POLLOUT
        if wanted != self._polled:
            self._poll = select.poll()
            self._polled = wanted
            for fd, events in wanted.items():
                self._poll.register(fd, events)

    def _due_at(self) -> float:
        """When to look again though nothing happens."""
        due = [time.monotonic() + _LONGEST_WAIT_S, self._drain_until]
        for held in self._hand.current:
            if held.stop is not None:
                due.append(held.kill_at)
            elif held.timeout_at is not None:
                due.append(held.timeout_at)
        if self._hand.running and (self._hand.backlog or not self._exchange.listening):
            due.append(self._hand.oldest_began_at + PATIENCE_S)
        if self._hand.room or not self._exchange.readers():
            due.append(self._exchange.due_at)
        if self._exchange.begun_by is not None:
            due.append(self._exchange.begun_by)
        return min(due)

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
            for job, what in jobs.items():
                if what == "cancel":
                    self.on_stop(job, "cancel")
                else:
                    self.on_not_ours(job)
        if self._signals:
            self.on_drain()
        if self._signals > 1:
            self._drain_until = 0.0

    # -- the lease thread's side ---------------------------------------------------------------------
    def _on_verdict(self, verdict: str, jobs: Mapping[str, str]) -> None:
        self._verdicts.append((verdict, jobs))
        self._wake()

    def _keepalive(self) -> None:
        process = self._runtime.process
        if process is not None:
            process.keepalive()

    def _vitals(self) -> dict[str, str | int | float]:
        service = (
            {} if self._pace.service_s is None else {"fq_service_ms": round(self._pace.service_s * 1000, 3)}
        )
        return {"fq_env": self._presence.resources, "fq_rev": self._runtime.revision, **service}

    # -- what is due ---------------------------------------------------------------------------------
    def _progress(self) -> None:
        """Everything that can be done now without waiting."""
        self._runtime.poll()
        if self._runtime.phase is Phase.READY and not self._was_ready:
            self._gone = not self._presence.ready(self._runtime.startup_ms)
            self._was_ready = True
            self._exchange.look()
        elif self._runtime.phase is Phase.FAILED and self._was_ready:
            self._refuse_waiting(self._runtime.failure)
        now = time.monotonic()
        self._feed()
        self._overdue(now)
        self._sated = self._sated and bool(self._hand.running)
        may_claim = self._was_ready and not (
            self._draining or self._sated or self._runtime.phase is Phase.FAILED
        )
        # Not for jobs so short that their outcome comes before anybody could want them stopped.
        listen = not self._hand.running or now >= self._hand.oldest_began_at + PATIENCE_S
        self._exchange.flush(may_claim=may_claim, listen=listen)

    def _overdue(self, now: float) -> None:
        for held in self._hand.current:
            if held.stop is not None and now >= held.kill_at:
                self._kill_for(held)
                return
            if held.stop is None and held.timeout_at is not None and now >= held.timeout_at:
                self.on_stop(held.job, "timeout")
        if self._hand.backlog and now >= self._hand.oldest_began_at + PATIENCE_S:
            self._give_backlog_back()
        if now >= self._drain_until:
            self._give_everything_back()

    def _give_backlog_back(self) -> None:
        """What runs takes longer than expected: others may have what would wait for it."""
        self._sated = self._hand.free > 0  # they wait for other code than what runs: take no more of them
        ahead = self._hand.take_ahead()
        for held in ahead:
            if self._runtime.process is not None:
                self._runtime.process.cancel(held.job, "cancel")
        self._exchange.release([*ahead, *self._hand.take_waiting()])

    def _feed(self) -> None:
        """Hand claimed jobs to the executor, as many as it runs at once, in order."""
        process = self._runtime.process
        if self._runtime.phase is not Phase.READY or process is None:
            return
        hand = self._hand
        hand.ahead = self._pace.handed_ahead if hand.concurrency == 1 else 0
        while hand.waiting and hand.free:
            held = hand.waiting[0]
            if held.claimed.revision != self._runtime.revision:
                if not hand.running:
                    self._switch(held.claimed.revision)
                return
            hand.waiting.popleft()
            if not hand.running:
                process.tail.clear()
            held.began_at = time.monotonic()
            hand.running[held.job] = held
            self._exchange.begin(held)
            timeout_ms = held.header.timeout_ms
            process.run(
                held.job,
                held.payload,
                attempt=held.claimed.attempt,
                fence=held.fence,
                generation=held.claimed.generation,
                encoding="json" if held.header.encoding == "json" else "pickle",
                deadline_s=timeout_ms / 1000 if timeout_ms else None,
            )

    def _switch(self, revision: str) -> None:
        """Other code is wanted: the same worker takes it, in a fresh executor."""
        try:
            record = self._presence.record(revision)
        except FlashqError as error:
            self._refuse(revision, Failure(FailureKind.REFUSED, str(error)))
            return
        self._hand.concurrency = record.concurrency
        self._runtime.prepare(revision, record, self._presence.environment_values())

    def _refuse(self, revision: str, failure: Failure) -> None:
        for held in self._hand.take_waiting():
            if held.claimed.revision == revision:
                self._exchange.settle(self._outcomes.failure(held, failure))
            else:
                self._hand.waiting.append(held)

    def _refuse_waiting(self, why: str) -> None:
        """The revision these jobs were submitted with does not start here; the worker itself is well."""
        self._refuse(self._runtime.revision, Failure(FailureKind.START, why))
        self._switch(
            self._hand.waiting[0].claimed.revision
            if self._hand.waiting
            else self._presence.current_revision()
        )

    # -- what the broker says ------------------------------------------------------------------------
    def on_claimed(self, rows: tuple[Claimed, ...], begun: int) -> None:
        """Verify what was claimed; what passes waits for its turn."""
        for index, row in enumerate(rows):
            try:
                held = assignment.verify(
                    row,
                    self.config.keys,
                    self.config.endpoint,
                    now_ms=self._exchange.now_ms(),
                    limit=self.config.payload_limit,
                )
                if row.revision == self._runtime.revision:
                    verdicts.check_python(held.header, self._runtime.python)
            except FlashqError as error:
                log.warning("job %s is refused: %s", row.job, error)
                self._exchange.settle(verdicts.refused(row, error, self._outcomes))
                continue
            held.began = index < begun
            if self._draining:
                self._exchange.release([held])
            else:
                self._hand.waiting.append(held)

    def on_stop(self, job: str, why: Stop) -> None:
        """Interrupt a job; a waiting one simply ends."""
        for held in self._hand.take_waiting(job):
            self._exchange.settle(verdicts.stopped(held, why, self._outcomes))
        running = self._hand.running.get(job)
        process = self._runtime.process
        if running is None or running.stop is not None or process is None:
            return
        running.stop = why
        running.kill_at = time.monotonic() + self.config.grace_s
        process.cancel(job, why)

    def on_not_ours(self, job: str) -> None:
        """Whatever runs it is killed, and nothing is reported of it."""
        if self._hand.take_waiting(job):
            return
        if self._hand.running.pop(job, None) is not None:
            log.warning("job %s is no longer this worker's", job)
            self._kill_executor()

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

    # -- what the executor says ----------------------------------------------------------------------
    def _on_executor(self, process: ExecutorProcess, ready: set[int]) -> None:
        if process.output_fileno() in ready:  # what a job printed was written before its outcome
            self._on_output(process.read_output())
        if process.fileno() not in ready:
            return
        process.flush()
        try:
            for frame in process.frames():
                if frame.type is FrameType.OUTCOME:
                    self._on_outcome(frame)
                else:
                    self._runtime.on_frame(frame)
        except FrameError as error:
            log.error("the executor sent what is no frame: %s", error)
            self._on_executor_ended()
            return
        if process.closed:
            self._on_executor_ended()

    def _on_output(self, data: bytes) -> None:
        if not data:
            return
        self._pace.silent = 0
        os.write(2, data)
        if self._hand.running and self._hand.concurrency == 1:  # else nobody can tell whose output it is
            job = next(iter(self._hand.running))
            kept = self._logged.get(job, 0)
            if kept < presence.MOST_LOG_BYTES:
                self._logged[job] = kept + len(data)
                self._exchange.log(job, data)

    def _on_outcome(self, frame: Frame) -> None:
        held = self._hand.running.pop(frame.meta["job"], None)
        process = self._runtime.process
        if held is None or process is None:
            return
        if self._hand.running:  # the next in the executor's hands begins about now
            following = next(iter(self._hand.running.values()))
            following.began_at = max(following.began_at, time.monotonic())
        self._logged.pop(held.job, None)
        execution_ms = frame.meta["execution_ms"]
        self._pace.observe(execution_ms / 1000)
        timing: dict[str, Any] = {"execution_ms": execution_ms}
        if self._first_job:
            self._first_job = False
            timing["startup_ms"] = self._presence.startup(held.claimed.enqueued_ms)
        self._exchange.settle(verdicts.of_outcome(held, frame, self._outcomes, timing, process.tail.text))
        self._exchange.look()

    def _kill_for(self, held: Assignment) -> None:
        """A job did not stop within its grace."""
        assert held.stop is not None
        process = self._runtime.process
        tail = process.tail.text() if process is not None else ""
        self._hand.running.pop(held.job)
        self._exchange.settle(verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail))
        self._kill_executor()

    def _kill_executor(self) -> None:
        """The others in it are innocent: they go back uncounted."""
        self._exchange.release(self._hand.take_running())
        self._runtime.restart()

    def _on_executor_ended(self) -> None:
        process = self._runtime.process
        assert process is not None
        if self._runtime.phase is Phase.LOADING:
            self._runtime.on_closed()
            return
        process.kill()
        how, tail = process.exit_description(), process.tail.text()
        log.warning("the executor %s with %d job(s) in it", how, len(self._hand.running))
        self._exchange.release(self._hand.take_ahead())
        for held in self._hand.take_running():
            if held.stop is not None:
                self._exchange.settle(
                    verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail)
                )
            else:
                message = f"job {held.job}: the process running it {how}, as often as it may be tried"
                final = self._outcomes.failure(held, Failure(FailureKind.CRASH, message, log=tail))
                self._exchange.crash(held, f"the process running it {how}", final)
        self._exchange.look()
        self._runtime.restart()
