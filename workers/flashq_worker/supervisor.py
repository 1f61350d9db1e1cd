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
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from flashq import codec
from flashq.errors import BrokerError, EnvelopeError, FlashqError, PythonMismatch, WrongBinding
from flashq.kinds import STREAMS
from flashq.model.outcome import Failure, FailureKind
from flashq.store.broker import Broker
from flashq.store.workers import facts
from flashq_worker import assignment, presence, verdicts
from flashq_worker.echo import Echo
from flashq_worker.exchange import Exchange
from flashq_worker.executor.frames import Frame, FrameError, FrameType
from flashq_worker.exit_policy import ExitCode, Standing, exit_code
from flashq_worker.hand import Hand
from flashq_worker.lease import LeaseKeeper, renew_every_s
from flashq_worker.loading import Loading
from flashq_worker.outcomes import OutcomeWriter
from flashq_worker.outflow import FIRST_CREDIT
from flashq_worker.pacing import PATIENCE_S, Pace
from flashq_worker.runtime import Phase, Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.codec import Revision
    from flashq.store.command import Value
    from flashq.store.records import Claimed
    from flashq_worker.assignment import Assignment, LiveKeys, Stop
    from flashq_worker.config import WorkerConfig
    from flashq_worker.executor_process import ExecutorProcess
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
    ) -> None:
        """`words`: where further keys come from, if from anywhere."""
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
        self._runtime = Runtime(config, self._wake)
        self._loading = Loading(self._runtime, self._presence, self)
        self._outcomes = OutcomeWriter(keys, config.endpoint, config.payload_limit)
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        self._verdicts: deque[tuple[str, Mapping[tuple[str, int], str]]] = deque()
        self._signals = 0
        self._draining = False
        self._sated = False
        self._drain_until = float("inf")
        self._gone = False
        self._progressed_at = 0.0  # when it was last looked what is due
        self._first_job = True
        self._echo = Echo()
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
            while not self._signals and not self._began(self._loading.begin()):
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
            self._runtime.end(self._echo.write)  # before it says so: what it held of the host is free by then
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
        process = self._runtime.process
        ready = {fd for fd, _ in self._poll.poll(max(0.0, (self._due_at() - time.monotonic()) * 1000))}
        if self._wake_r in ready:
            self._on_wake()
        if self._words is not None and self._words.descriptor in ready:
            self._words.receive()
        if self._lifeline is not None and self._lifeline in ready:
            self._abandon()
        if process is not None:
            self._on_executor(process, ready)
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
        due = [time.monotonic() + _LONGEST_WAIT_S, self._drain_until, self._loading.due_at]
        due.append(self._exchange.act_by)
        for held in self._hand.current:
            if held.stop is not None:
                due.append(held.kill_at)
            elif held.timeout_at is not None:
                due.append(held.timeout_at)
        if self._hand.running and (self._hand.backlog or not self._exchange.listening):
            patience_ends = self._hand.oldest_began_at + PATIENCE_S
            if (
                patience_ends > self._progressed_at
            ):  # else what it is waited for has been done, or is under way
                due.append(patience_ends)
        if not self._exchange.readers():
            due.append(self._exchange.due_at)
        elif self._may_claim and self._hand.room:
            due.append(self._exchange.look_at)
        return min(due)

    @property
    def _may_claim(self) -> bool:
        return self._loading.may_claim and not (self._draining or self._sated)

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
                    self.on_stop(job, "cancel")
                else:
                    self.on_not_ours(job, fence)
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
        service_s = self._pace.service_s
        return facts(
            resources=self._presence.resources,
            revision=self._runtime.revision,
            keys=self._keys.ids,
            service_ms=None if service_s is None else round(service_s * 1000, 3),
        )

    # -- what is due ---------------------------------------------------------------------------------
    def _progress(self) -> None:
        """Everything that can be done now without waiting."""
        self._began(self._loading.progress())
        self._feed()
        now = self._progressed_at = time.monotonic()
        self._overdue(now)
        self._sated = self._sated and bool(self._hand.running)
        # Not for jobs so short that their outcome comes before anybody could want them stopped.
        listen = not self._hand.running or now >= self._hand.oldest_began_at + PATIENCE_S
        self._exchange.flush(may_claim=self._may_claim, listen=listen)

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
        """What runs takes longer than expected: others may have what would wait for it.

        What the executor was given already is released when it says that it has not begun it.
        """
        self._sated = self._hand.free > 0  # they wait for other code than what runs: take no more of them
        self._exchange.release(self._hand.take_waiting())
        if self._runtime.process is not None:
            for held in reversed(self._hand.ahead_of_time):  # so that they come back as `release` wants them
                held.asked_back = True
                self._runtime.process.cancel(held.job, held.fence, "give-back")

    def _feed(self) -> None:
        """Hand claimed jobs to the executor, as many as it runs at once, in order."""
        process, hand = self._runtime.process, self._hand
        if self._runtime.phase is Phase.EMPTY and self._loading.ready_once and hand.waiting:
            self._began(self._loading.want(hand.waiting[0].claimed.revision))
        if self._runtime.phase is not Phase.READY or process is None:
            return
        hand.ahead = self._pace.handed_ahead if hand.concurrency == 1 else 0
        while hand.waiting and hand.free:
            held = hand.waiting[0]
            other_env = held.header.env_tag not in ("", self._presence.env_tag)
            if held.claimed.revision != self._runtime.revision or other_env:
                # The same worker takes other code, or other values of env, in a fresh executor.
                if not hand.running and self._began(self._loading.want(held.claimed.revision)):
                    self._presence.env_tag = held.header.env_tag  # also where newer ones have come since
                return
            if held.once and not self._may_enter(held):
                return
            hand.waiting.popleft()
            if not self._readable(held):
                continue
            if not hand.running:
                process.tail.clear()
            held.began_at = time.monotonic()
            held.handed = True
            hand.running[held.job] = held
            self._exchange.begin(held)
            process.run(
                held.job,
                held.payload,
                fence=held.fence,
                encoding=_encoding(held),
                attempt=held.claimed.attempt,
                target=held.header.target,
                credit=FIRST_CREDIT if self._yields(held) else 0,
            )

    def _readable(self, held: Assignment) -> bool:
        """Whether the executor can be relied on to unpickle a job's arguments; one where it cannot is refused."""
        try:
            verdicts.check_python(held.header, self._runtime.python)
            verdicts.check_cloudpickle(held.header, codec.cloudpickle_version())
            verdicts.check_target(held.header, self._runtime.kind_of(held.header.target))
        except (PythonMismatch, WrongBinding) as error:
            failure = Failure(FailureKind.REFUSED, f"job {held.job}: {error}")
            self._exchange.settle(self._outcomes.failure(held, failure))
            return False
        return True

    def _yields(self, held: Assignment) -> bool:
        return self._runtime.kind_of(held.header.target) in STREAMS

    def _may_enter(self, held: Assignment) -> bool:
        """Of what may begin only once: a place is free now, and the broker has recorded that it begins."""
        if len(self._hand.running) >= self._hand.concurrency:
            return False
        if not held.began and not held.starting:
            self._exchange.start(held)
        return held.began

    def _began(self, record: Revision | None) -> bool:
        """Take the terms of a revision that is being loaded; whether one is."""
        if record is not None:
            self._hand.concurrency = record.concurrency
        return record is not None

    # -- what is said of loading -----------------------------------------------------------------------
    def on_unstartable(self, revision: str, failure: Failure) -> None:
        """Code that cannot be started: its jobs fail."""
        for held in self._hand.take_revision(revision):
            self._exchange.settle(self._outcomes.failure(held, failure))

    def on_start_trouble(self, revision: str) -> None:
        """Code that did not start, though elsewhere it may: its jobs go back."""
        self._exchange.release(self._hand.take_revision(revision))

    def on_ready(self) -> None:
        """There may be work to claim."""
        self._exchange.look()

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
        """What may begin only once may be run; unless it was given back meanwhile, or its caller cancelled it."""
        if held not in self._hand.waiting:
            return
        held.began = True
        if verdict == "cancel":
            self.on_stop(held.job, "cancel")
        elif verdict == "stale":
            self.on_not_ours(held.job, held.fence)

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
        process.cancel(job, running.fence, why)

    def on_not_ours(self, job: str, fence: int) -> None:
        """Whatever runs this delivery is killed, and nothing is reported of it."""
        if not any(held.job == job and held.fence == fence for held in self._hand):
            return
        if not self._hand.take_waiting(job):
            del self._hand.running[job]
            log.warning("job %s is no longer this worker's", job)
            self._kill_executor()

    def on_taken(self, job: str, fence: int, number: int) -> None:
        """Somebody reads what a job yields: it may yield more."""
        held, process = self._hand.running.get(job), self._runtime.process
        if held is not None and held.fence == fence and process is not None:
            held.outflow.taken(number)
            if chunks := held.outflow.grant():
                process.credit(job, fence, chunks)

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
        if process.fileno() in ready:
            process.flush()
            self._on_frames(process)

    def _on_frames(self, process: ExecutorProcess) -> None:
        try:
            for frame in process.frames():
                if frame.type is FrameType.OUTCOME:
                    self._on_outcome(frame)
                elif frame.type is FrameType.CHUNK:
                    self._on_chunk(frame)
                else:
                    self._runtime.on_frame(frame)
        except FrameError as error:
            log.error("the executor sent what it may not send: %s", error)
            self._on_executor_ended(all_read=False)
            return
        if process.closed:
            self._on_executor_ended()

    def _on_output(self, data: bytes) -> None:
        if not data:
            return
        self._pace.silent = 0
        self._echo.write(data)
        if self._hand.running and self._hand.concurrency == 1:  # else nobody can tell whose output it is
            held = next(iter(self._hand.running.values()))
            if held.logged < presence.MOST_LOG_BYTES:
                self._exchange.log(held, held.logged, data)
                held.logged += len(data)

    def _at(self, frame: Frame) -> Assignment:
        """The job that a frame of the executor is about. Raises FrameError where it is not at that."""
        held = self._hand.running.get(frame.meta["job"])
        if held is None or held.fence != frame.meta["fence"]:
            raise FrameError(f"a {frame.type.name} of job {frame.meta['job']!r:.250}, which it is not at")
        if frame.meta["encoding"] != _encoding(held):
            raise FrameError(f"job {held.job} is answered as {frame.meta['encoding']}")
        return held

    def _on_chunk(self, frame: Frame) -> None:
        held = self._at(frame)
        if not self._yields(held) or frame.meta["number"] != held.outflow.count + 1:
            raise FrameError(f"chunk {frame.meta['number']} of job {held.job}, after {held.outflow.count}")
        number = held.outflow.yielded(len(frame.blob))
        self._exchange.chunk(held, number, self._outcomes.chunk(held, number, _encoding(held), frame.blob))
        self.on_taken(held.job, held.fence, 0)

    def _on_outcome(self, frame: Frame) -> None:
        held, process = self._at(frame), self._runtime.process
        assert process is not None
        skipped = frame.meta["status"] == "skipped"
        if skipped and not held.asked_back:
            raise FrameError(f"job {held.job} is skipped, which nobody asked for")
        del self._hand.running[held.job]
        if skipped:
            held.handed = False
            if held.stop is None:
                self._exchange.release([held])
            else:
                self._exchange.settle(verdicts.stopped(held, held.stop, self._outcomes))
            return
        now = time.monotonic()
        for following in self._hand.current if self._runtime.batches else self._hand.current[:1]:
            following.began_at = max(
                following.began_at, now
            )  # the next in the executor's hands begin about now
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
        if process is not None:
            self._on_frames(process)  # its outcome may have come this very moment
        if self._hand.running.get(held.job) is not held:
            return
        tail = process.tail.text() if process is not None else ""
        del self._hand.running[held.job]
        self._exchange.settle(verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail))
        self._kill_executor()

    def _kill_executor(self) -> None:
        """The others in it are innocent: they go back uncounted."""
        self._exchange.release(self._hand.take_running())
        self._runtime.restart()

    def _on_executor_ended(self, *, all_read: bool = True) -> None:
        """`all_read`: so what was handed ahead has not begun, for the outcome of what ran before it is missing."""
        process = self._runtime.process
        assert process is not None
        if self._runtime.phase is Phase.LOADING:
            self._runtime.on_closed()
        if self._runtime.phase is not Phase.READY:
            return
        process.kill()
        how, tail = process.exit_description(), process.tail.text()
        log.warning("the executor %s with %d job(s) in it", how, len(self._hand.running))
        if all_read:
            self._exchange.release(self._hand.take_running(beyond=self._hand.concurrency))
        for held in self._hand.take_running():
            if held.stop is not None:
                self._exchange.settle(
                    verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail)
                )
            else:
                final = self._outcomes.failure(held, verdicts.crashed(held, how, tail))
                self._exchange.crash(held, f"the process running it {how}", final)
        self._exchange.look()
        self._runtime.restart()


def _encoding(held: Assignment) -> Literal["json", "pickle"]:
    """How a job's arguments are written, and so its result."""
    return "json" if held.header.encoding == "json" else "pickle"
