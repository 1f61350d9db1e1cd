"""The supervisor: claims jobs, has the executor run them, and settles what became of each.

One thread waits on everything at once: the executor's frames and output, the broker's answers, the worker's
bell, and what the lease thread has to say. At most one ADVANCE (finish, start, claim in one round trip) is on
its way; what ends meanwhile travels with the next one, so short jobs batch themselves and long ones never wait.
User code runs in the executor alone; here payloads are bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from flashq import codec
from flashq.errors import BrokerError, BrokerUnreachable, EnvelopeError, FlashqError
from flashq.model.outcome import Failure, FailureKind
from flashq.store.broker import Broker
from flashq.store.line import Line, pack
from flashq.store.records import Advanced, Claimed, Settlement
from flashq.store.stream import CommandStream
from flashq_worker import assignment, presence, verdicts
from flashq_worker.assignment import Assignment, Stop
from flashq_worker.config import WorkerConfig
from flashq_worker.executor.frames import Frame, FrameError, FrameType
from flashq_worker.exit_policy import ExitCode, Standing, exit_code
from flashq_worker.lease import LeaseKeeper
from flashq_worker.outcomes import OutcomeWriter
from flashq_worker.pacing import PATIENCE_S, Pace
from flashq_worker.runtime import Phase, Runtime

log = logging.getLogger("flashq.worker")
_RECONNECT_S = 0.2
_IDLE_CHECK_S = 1.0  # a bell is only a hint: an idle worker looks for work this often all the same


class Supervisor:
    """One worker of one endpoint, from joining to leaving."""

    def __init__(self, config: WorkerConfig, lifeline: int | None = None) -> None:
        self.config = config
        self._lifeline = lifeline
        self._broker = Broker(config.url, prefix=config.prefix)
        self._transitions = self._broker.transitions
        self._stream = CommandStream(self._broker.library)
        self._bell: Line | None = None
        self._bell_key = self._broker.keys.of("bell", config.worker)
        self._reconnect_at = 0.0
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._runtime = Runtime(config, self._wake)
        self._outcomes = OutcomeWriter(config.keys, config.endpoint, config.payload_limit)
        self._presence = presence.Presence(self._broker, config)
        self._pace = Pace()
        self._held: dict[str, Assignment] = {}  # running in the executor
        self._waiting: deque[Assignment] = deque()  # claimed, not yet handed over
        self._settled: list[Settlement] = []  # to travel with the next ADVANCE
        self._begun: list[tuple[str, int]] = []  # handed over; START travels with the next ADVANCE
        self._advancing = False
        self._nonce = 0
        self._look = True  # whether there may be work to claim
        self._look_at = 0.0
        self._verdicts: deque[tuple[str, Mapping[str, str]]] = deque()
        self._signals = 0
        self._draining = False
        self._drain_until = float("inf")
        self._gone = False
        self._was_ready = False
        self._concurrency = 1
        self._first_job = True
        self._logged: dict[str, int] = {}
        self._clock_offset_ms = 0.0
        self._lease = LeaseKeeper(
            Broker(config.url, prefix=config.prefix, patience_s=1.0),
            config.endpoint,
            config.worker,
            lease_s=config.lease_s,
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
            joined = self._presence.join()
            if joined is not None:
                return joined
            self._clock_offset_ms = self._presence.now_ms - time.monotonic() * 1000
            self._lease.start()
            revision = self._presence.current_revision()
            record = self._presence.record(revision)
            self._concurrency = record.concurrency
            self._runtime.prepare(revision, record, self._presence.environment_values())
            code = self._loop()
        except FlashqError as error:
            log.exception("the worker cannot go on")
            code = self._fail_start(str(error), deterministic=isinstance(error, EnvelopeError))
        finally:
            self._lease.stop()
            self._runtime.close()
        return code

    def _loop(self) -> ExitCode:
        while True:
            self._connect()
            self._progress()
            standing = Standing(
                draining=self._draining,
                gone=self._gone,
                start_failed=self._runtime.phase is Phase.FAILED and not self._was_ready,
                holding=len(self._held) + len(self._waiting),
                unsettled=len(self._settled) + int(self._advancing),
            )
            code = exit_code(standing)
            if code is not None:
                return self._end(code)
            self._wait()

    def _end(self, code: ExitCode) -> ExitCode:
        if code is ExitCode.NOT_STARTED:
            return self._fail_start(self._runtime.failure, deterministic=True)
        if code is ExitCode.LEFT:
            with contextlib.suppress(BrokerError):
                self._broker.run(self._transitions.leave(self.config.endpoint, self.config.worker, "left"))
        log.info("worker %s ends: %s", self.config.worker, code.name)
        return code

    def _fail_start(self, why: str, *, deterministic: bool) -> ExitCode:
        log.error("cannot start: %s", why)
        with contextlib.suppress(BrokerError):
            self._presence.leave_unstarted(why, deterministic=deterministic)
        return ExitCode.NOT_STARTED

    # -- connections ---------------------------------------------------------------------------------
    def _connect(self) -> None:
        if self._stream.line is not None or time.monotonic() < self._reconnect_at:
            return
        try:
            line, bell = self._broker.connect(), Line(self.config.url)
            bell.send(pack("BLPOP", self._bell_key, 0))
        except BrokerError as error:
            log.warning("%s; trying again", error)
            self._reconnect_at = time.monotonic() + _RECONNECT_S
            return
        self._stream.attach(line)
        self._bell = bell
        self._look = True

    def _disconnect(self, error: Exception) -> None:
        log.warning("%s", error)
        self._stream.drop()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._reconnect_at = time.monotonic() + _RECONNECT_S

    # -- waiting -------------------------------------------------------------------------------------
    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        process = self._runtime.process
        if process is not None:
            for fd in process.readers():
                poll.register(fd, select.POLLIN)
            for fd in process.writers():
                poll.register(fd, select.POLLIN | select.POLLOUT)
        if self._stream.line is not None and self._bell is not None:
            poll.register(self._stream.line.fileno(), select.POLLIN)
            poll.register(self._bell.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._patience_ms())}
        if self._wake_r in ready:
            self._on_wake()
        if self._lifeline is not None and self._lifeline in ready:
            log.error("the host agent is gone")
            self._runtime.close()
            os._exit(ExitCode.LOST)
        if process is not None and not ready.isdisjoint([*process.readers(), *process.writers()]):
            self._on_executor()
        try:
            if self._stream.line is not None and self._stream.line.fileno() in ready:
                self._stream.receive()
            if self._bell is not None and self._bell.fileno() in ready:
                self._on_bell(self._bell)
        except BrokerUnreachable as error:
            self._disconnect(error)

    def _patience_ms(self) -> float:
        now = time.monotonic()
        due = [now + 5.0]
        for held in self._held.values():
            if held.stop is not None:
                due.append(held.kill_at)
            elif held.timeout_at is not None:
                due.append(held.timeout_at)
        if self._waiting and self._held:
            due.append(min(h.began_at for h in self._held.values()) + PATIENCE_S)
        if self._stream.line is None:
            due.append(self._reconnect_at)
        elif not self._held:
            due.append(self._look_at)
        if self._draining:
            due.append(self._drain_until)
        return max(0.0, (min(due) - now) * 1000)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"\0")

    def _on_signal(self, *_: object) -> None:
        self._signals += 1

    def _on_wake(self) -> None:
        os.read(self._wake_r, 4096)
        self._runtime.poll()
        while self._verdicts:
            verdict, jobs = self._verdicts.popleft()
            self._gone = self._gone or verdict == "gone"
            if verdict == "drain":
                self._drain()
            for job, what in jobs.items():
                if what == "cancel":
                    self._stop(job, "cancel")
                elif job in self._held:
                    self._abandon(job)
        if self._signals:
            self._drain()
        if self._signals > 1:
            self._drain_until = 0.0

    def _on_verdict(self, verdict: str, jobs: Mapping[str, str]) -> None:
        self._verdicts.append((verdict, jobs))
        self._wake()

    def _keepalive(self) -> None:
        process = self._runtime.process
        if process is not None:
            process.keepalive()

    def _vitals(self) -> dict[str, str | int | float]:
        service = {} if self._pace.service_s is None else {"fq_service_ms": round(self._pace.service_s * 1000, 3)}
        return {"fq_env": self._presence.resources, "fq_rev": self._runtime.revision, **service}

    def _on_bell(self, bell: Line) -> None:
        for reply in bell.receive():
            token = reply[1].decode() if isinstance(reply, list) else ""
            if token.startswith("cancel:"):
                self._stop(token.removeprefix("cancel:"), "cancel")
            elif token == "drain":
                self._drain()
            self._look = True
            bell.send(pack("BLPOP", self._bell_key, 0))

    # -- what is due ---------------------------------------------------------------------------------
    def _progress(self) -> None:
        """Everything that can be done now without waiting."""
        now = time.monotonic()
        self._runtime.poll()
        self._on_ready_runtime()
        self._overdue(now)
        self._feed()
        if now >= self._look_at and not self._held:
            self._look = True
        try:
            if self._stream.line is not None:
                self._advance()
                self._stream.flush()
        except BrokerUnreachable as error:
            self._disconnect(error)

    def _on_ready_runtime(self) -> None:
        if self._runtime.phase is Phase.READY and not self._was_ready:
            if not self._presence.ready(self._runtime.startup_ms):
                self._gone = True
            self._was_ready = True
            self._look = True
        elif self._runtime.phase is Phase.FAILED and self._was_ready:
            self._refuse_waiting(self._runtime.failure)

    def _refuse_waiting(self, why: str) -> None:
        """The revision these jobs were submitted with does not start here; the worker itself is well."""
        for held in list(self._waiting):
            if held.claimed.revision == self._runtime.revision:
                self._waiting.remove(held)
                self._settle(self._outcomes.failure(held, Failure(FailureKind.START, why)))
        if not self._waiting:
            self._prepare(self._presence.current_revision())

    def _overdue(self, now: float) -> None:
        for held in list(self._held.values()):
            if held.stop is not None and now >= held.kill_at:
                self._kill_for(held)
                return
            if held.stop is None and held.timeout_at is not None and now >= held.timeout_at:
                self._stop(held.job, "timeout")
        if self._waiting and self._held and len(self._held) >= self._concurrency:
            oldest = min(h.began_at for h in self._held.values())
            if now - oldest >= PATIENCE_S:
                self._release(list(self._waiting))
                self._waiting.clear()
        if self._draining and now >= self._drain_until and (self._held or self._waiting):
            self._give_everything_back()

    def _feed(self) -> None:
        """Hand claimed jobs to the executor, as many as it runs at once, in order."""
        if self._runtime.phase is not Phase.READY:
            return
        process = self._runtime.process
        assert process is not None
        while self._waiting and len(self._held) < self._concurrency:
            held = self._waiting[0]
            if held.claimed.revision != self._runtime.revision:
                if not self._held:
                    self._prepare(held.claimed.revision)
                return
            self._waiting.popleft()
            held.began_at = time.monotonic()
            if not held.began:
                held.began = True
                self._begun.append((held.job, held.fence))
            self._held[held.job] = held
            if len(self._held) == 1:
                process.tail.clear()
            process.run(
                held.job,
                held.payload,
                attempt=held.claimed.attempts,
                fence=held.fence,
                generation=held.claimed.generation,
                encoding="json" if held.header.encoding == "json" else "pickle",
                deadline_s=held.header.timeout_ms / 1000 if held.header.timeout_ms else None,
            )

    def _prepare(self, revision: str) -> None:
        """Other code is wanted: the same worker takes it in a fresh executor."""
        if revision == self._runtime.revision and self._runtime.phase in (Phase.BUILDING, Phase.LOADING, Phase.READY):
            return
        try:
            record = self._presence.record(revision)
        except FlashqError as error:
            for held in [h for h in self._waiting if h.claimed.revision == revision]:
                self._waiting.remove(held)
                self._settle(self._outcomes.failure(held, Failure(FailureKind.REFUSED, str(error))))
            return
        self._concurrency = record.concurrency
        self._runtime.prepare(revision, record, self._presence.environment_values())

    # -- the broker ----------------------------------------------------------------------------------
    def _advance(self) -> None:
        if self._advancing or not (self._settled or self._begun or self._wants_work):
            return
        done, self._settled = self._settled, []
        begun, self._begun = self._begun, []
        room = max(0, self._concurrency - len(self._held) - len(self._waiting))
        count = 0
        if self._may_claim:
            count = max(0, self._concurrency + self._pace.ahead - len(self._held) - len(self._waiting))
        self._nonce += 1
        command = self._transitions.advance(
            self.config.endpoint,
            self.config.worker,
            str(self._nonce),
            done=done,
            begin=begun,
            count=count,
            lease_ms=int(self.config.lease_s * 1000),
            start=room if not self._waiting else 0,
            holding=len(self._held) + len(self._waiting),
            room=room if self._may_claim else 0,
        )
        self._look = False
        self._look_at = time.monotonic() + _IDLE_CHECK_S * (1 + random.random() / 4)  # noqa: S311 — not all at once
        self._advancing = True

        def answered(answer: Advanced | None, error: Exception | None) -> None:
            self._advancing = False
            if answer is None:
                log.error("the broker refused a step: %s", error)
                self._settled = done + self._settled
                self._look_at = time.monotonic() + _IDLE_CHECK_S
                return
            self._on_advanced(answer, begun, asked=count)

        self._stream.add(command, answered)

    @property
    def _may_claim(self) -> bool:
        return self._was_ready and not self._draining and self._runtime.phase is not Phase.FAILED

    @property
    def _wants_work(self) -> bool:
        return self._look and self._may_claim and len(self._held) + len(self._waiting) < self._concurrency

    def _on_advanced(self, answer: Advanced, begun: list[tuple[str, int]], *, asked: int) -> None:
        self._clock_offset_ms = answer.claim.now_ms - time.monotonic() * 1000
        if answer.claim.verdict == "gone":
            self._gone = True
            return
        if answer.claim.verdict == "drain":
            self._drain()
        for (job, _), verdict in zip(begun, answer.started, strict=True):
            if verdict == "cancel":
                self._stop(job, "cancel")
            elif verdict == "stale" and job in self._held:
                self._abandon(job)
        if not answer.claim.jobs:
            return
        start = max(0, self._concurrency - len(self._held) - len(self._waiting))
        for index, row in enumerate(answer.claim.jobs):
            self._take(row, began=index < start)
        self._look = len(answer.claim.jobs) == asked
        self._hold()

    def _take(self, row: Claimed, *, began: bool) -> None:
        try:
            held = assignment.verify(
                row,
                self.config.keys,
                self.config.endpoint,
                now_ms=int(time.monotonic() * 1000 + self._clock_offset_ms),
                limit=self.config.payload_limit,
            )
            verdicts.check_python(held.header, codec.PYTHON if self._runtime.process is None else self._python())
        except FlashqError as error:
            log.warning("job %s is refused: %s", row.job, error)
            self._settle(verdicts.refused(row, error, self._outcomes))
            return
        held.began = began
        if self._draining:
            self._release([held])
            return
        self._waiting.append(held)

    def _python(self) -> str:
        return self._presence.record(self._runtime.revision).python

    def _settle(self, settlement: Settlement) -> None:
        if settlement.state == "retry":
            self._stream.add(self._transitions.finish(settlement), self._ignore)
        else:
            self._settled.append(settlement)

    def _ignore(self, answer: Any, error: Exception | None) -> None:
        if error is not None:
            log.warning("the broker refused: %s", error)
        elif answer in ("stale", "gone"):
            log.warning("an outcome came too late and was refused (%s)", answer)
        self._look = True

    def _hold(self) -> None:
        held = [*self._held.values(), *self._waiting]
        self._lease.hold(tuple((h.job, h.fence) for h in held))

    def _release(self, jobs: list[Assignment]) -> None:
        for held in jobs:
            self._stream.add(self._transitions.release(held.job, held.fence), self._ignore)

    # -- the executor --------------------------------------------------------------------------------
    def _on_executor(self) -> None:
        process = self._runtime.process
        if process is None:
            return
        process.flush()
        self._on_output(process.read_output())
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
        os.write(2, data)
        if len(self._held) == 1:  # with several at once nobody can tell whose output it is
            job = next(iter(self._held))
            kept = self._logged.get(job, 0)
            if kept < presence.MOST_LOG_BYTES:
                self._logged[job] = kept + len(data)
                self._stream.add(self._transitions.log(job, data), self._ignore_log)

    def _ignore_log(self, answer: Any, error: Exception | None) -> None:
        if error is not None:
            log.warning("a job's output could not be kept: %s", error)

    def _on_outcome(self, frame: Frame) -> None:
        held = self._held.pop(frame.meta["job"], None)
        if held is None:
            return
        process = self._runtime.process
        assert process is not None
        if self._logged:
            self._logged.pop(held.job, None)
        meta = frame.meta
        self._pace.observe(meta["execution_ms"] / 1000)
        timing: dict[str, Any] = {"execution_ms": meta["execution_ms"]}
        if self._first_job:
            self._first_job = False
            timing["startup_ms"] = self._presence.startup(held.claimed.enqueued_ms)
        self._settle(verdicts.of_outcome(held, frame, self._outcomes, timing, process.tail.text))
        self._look = True
        self._hold()

    def _stop(self, job: str, why: Stop) -> None:
        """Interrupt a job; a waiting one simply ends."""
        for held in self._waiting:
            if held.job == job:
                self._waiting.remove(held)
                self._settle(verdicts.stopped(held, why, self._outcomes))
                return
        held_ = self._held.get(job)
        if held_ is None or held_.stop is not None:
            return
        held_.stop = why
        held_.kill_at = time.monotonic() + self.config.grace_s
        process = self._runtime.process
        assert process is not None
        process.cancel(job, why)

    def _abandon(self, job: str) -> None:
        """The broker says this job is not ours any more: whatever runs it is killed, nothing is reported of it."""
        log.warning("job %s is no longer this worker's", job)
        self._held.pop(job, None)
        self._kill_executor()

    def _kill_for(self, held: Assignment) -> None:
        """A job did not stop within its grace."""
        assert held.stop is not None
        process = self._runtime.process
        tail = process.tail.text() if process is not None else ""
        self._held.pop(held.job)
        self._settle(verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail))
        self._kill_executor()

    def _kill_executor(self) -> None:
        """The others in it are innocent: they go back uncounted."""
        self._release(list(self._held.values()))
        self._held.clear()
        self._hold()
        self._runtime.restart()

    def _on_executor_ended(self) -> None:
        process = self._runtime.process
        assert process is not None
        if self._runtime.phase is Phase.LOADING:
            self._runtime.on_closed()
            return
        process.kill()
        self._on_output(process.read_output())
        how, tail = process.exit_description(), process.tail.text()
        log.warning("the executor %s with %d job(s) in it", how, len(self._held))
        for held in list(self._held.values()):
            if held.stop is not None:
                self._settle(verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail))
            else:
                self._crashed(held, how, tail)
        self._held.clear()
        self._hold()
        self._look = True
        self._runtime.restart()

    def _crashed(self, held: Assignment, how: str, tail: str) -> None:
        if (held.job, held.fence) in self._begun:  # its attempt is to count, though no ADVANCE told of it yet
            self._begun.remove((held.job, held.fence))
            self._stream.add(self._transitions.start(held.job, held.fence), self._ignore)
        message = f"job {held.job}: the process running it {how}, as often as it may be tried"
        final = self._outcomes.failure(held, Failure(FailureKind.CRASH, message, log=tail))
        command = self._transitions.crash(
            held.job, held.fence, f"the process running it {how}", final.outcome, final.keep_s
        )
        self._stream.add(command, self._ignore)

    # -- ending --------------------------------------------------------------------------------------
    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._drain_until = time.monotonic() + self.config.drain_s
        self._release([h for h in self._waiting])
        self._waiting.clear()

    def _give_everything_back(self) -> None:
        log.warning("not finished within %g s: giving %d job(s) back", self.config.drain_s, len(self._held))
        self._release([*self._held.values(), *self._waiting])
        self._held.clear()
        self._waiting.clear()
        self._runtime.close()
        self._drain_until = float("inf")
        with contextlib.suppress(BrokerUnreachable):
            if self._stream.line is not None:
                self._stream.flush()

