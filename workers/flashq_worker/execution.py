"""What a worker runs: claimed jobs handed to the executor, its frames taken in, and the end of each job.

Driven by the supervisor's loop, and nothing here waits. User code runs in the executor alone, which may lie: each
frame is held against what it was given.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from flashq import codec
from flashq.errors import PythonMismatch, WrongBinding
from flashq.inside import MOST_PROGRESS
from flashq.kinds import STREAMS
from flashq.model.outcome import Failure, FailureKind
from flashq_worker import job_calls, presence, recycling, verdicts
from flashq_worker.echo import Echo
from flashq_worker.executor.frames import Frame, FrameError, FrameType
from flashq_worker.job_calls import JobCalls
from flashq_worker.outflow import FIRST_CREDIT
from flashq_worker.pacing import PATIENCE_S
from flashq_worker.runtime import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq.codec import Revision
    from flashq_worker.assignment import Assignment, Stop
    from flashq_worker.calls_link import CallsLink
    from flashq_worker.exchange import Exchange
    from flashq_worker.executor_process import ExecutorProcess
    from flashq_worker.hand import Hand
    from flashq_worker.loading import Loading
    from flashq_worker.outcomes import OutcomeWriter
    from flashq_worker.pacing import Pace
    from flashq_worker.runtime import Runtime

log = logging.getLogger("flashq.worker")
_PROGRESS_EVERY_S = 0.1
_END_SHARE = 0.2  # of the grace of a job that is to stop: what is left for SIGTERM


class Execution:
    """The jobs in `hand`, in the executor of `runtime`; what becomes of them goes to `exchange`.

    `sated`: what runs takes long, and no more is to be claimed before it ends. `grace_s`: how long a job that is
    told to stop may take to do so.
    """

    def __init__(
        self,
        hand: Hand,
        runtime: Runtime,
        loading: Loading,
        exchange: Exchange,
        *,
        presence: presence.Presence,
        outcomes: OutcomeWriter,
        pace: Pace,
        grace_s: float,
        link: CallsLink | None = None,
    ) -> None:
        """`link`: the way for what jobs call; None: they call nothing."""
        self._hand = hand
        self._runtime = runtime
        self._loading = loading
        self._exchange = exchange
        self._presence = presence
        self._outcomes = outcomes
        self._pace = pace
        self._grace_s = grace_s
        self._calls = JobCalls(link, hand, runtime, exchange)
        self._progressed_at = 0.0  # when it was last looked what is due
        self._served: ExecutorProcess | None = None  # what has run a job to its end
        self._jobs_run = 0  # by this executor
        self._worn = ""  # why it is to be replaced
        self._told_to_end = False
        self.echo = Echo()
        self.sated = False

    # -- what is due ---------------------------------------------------------------------------------
    def progress(self) -> float:
        """Everything that can be done now without waiting; the time at which that was."""
        self._feed()
        now = self._progressed_at = time.monotonic()
        self._overdue(now)
        self._calls.lend()
        for held in self._hand.current:
            if held.progress and now >= held.progress_at:
                self._tell_progress(held)
        self.sated = self.sated and bool(self._hand.running)
        return now

    @property
    def due_at(self) -> float:
        """When to look again though nothing happens; infinity where that is of no use."""
        due = [self._calls.due_at]
        for held in self._hand.current:
            if held.stop is not None:
                due.append(held.kill_at if self._told_to_end else held.end_at)
            elif held.timeout_at is not None:
                due.append(held.timeout_at)
            if held.progress:
                due.append(held.progress_at)
        if self._hand.running and (self._hand.backlog or not self._exchange.listening):
            patience_ends = self._hand.oldest_began_at + PATIENCE_S
            # Else what it is waited for has been done, or is under way.
            if patience_ends > self._progressed_at:
                due.append(patience_ends)
        return min(due)

    def readers(self) -> list[int]:
        """What to wait on for reading: the executor's ends, and the link's; `receive` is due then."""
        process = self._runtime.process
        found = [] if process is None else process.readers()
        if process is not None and self._calls.congested:
            found = [fd for fd in found if fd != process.fileno()]
        return [*found, *self._calls.readers()]

    def writers(self) -> list[int]:
        """What to wait on for writing."""
        process = self._runtime.process
        return [*([] if process is None else process.writers()), *self._calls.writers()]

    def _tell_progress(self, held: Assignment) -> None:
        held.progressed += 1
        held.progress_at = time.monotonic() + _PROGRESS_EVERY_S
        self._exchange.progress(held, held.progressed, held.progress)
        held.progress = b""

    def _overdue(self, now: float) -> None:
        for held in self._hand.current:
            if held.stop is not None and now >= held.kill_at:
                self._kill_for(held)
                return
            if held.stop is not None and now >= held.end_at and not self._told_to_end:
                self._tell_to_end()
            if held.stop is None and held.timeout_at is not None and now >= held.timeout_at:
                self.on_stop(held.job, "timeout")
        if self._hand.backlog and now >= self._hand.oldest_began_at + PATIENCE_S:
            self._give_backlog_back()

    def _give_backlog_back(self) -> None:
        """What runs takes longer than expected: others may have what would wait for it.

        What the executor was given already is released when it says that it has not begun it.
        """
        self.sated = self._hand.free > 0  # they wait for other code than what runs: take no more of them
        self._exchange.release(self._hand.take_waiting())
        if self._runtime.process is not None:
            for held in reversed(self._hand.ahead_of_time):  # so that they come back as `release` wants them
                held.asked_back = True
                self._runtime.process.cancel(held.job, held.fence, "give-back")

    # -- handing over --------------------------------------------------------------------------------
    def _feed(self) -> None:
        """Hand claimed jobs to the executor, as many as it runs at once, in order."""
        process, hand = self._runtime.process, self._hand
        if self._runtime.phase is Phase.EMPTY and self._loading.ready_once and hand.waiting:
            self.terms(self._loading.want(hand.waiting[0].claimed.revision))
        if self._runtime.phase is not Phase.READY or process is None:
            return
        if self._worn and self._replaced(process):
            return
        limited = "recycle_jobs" in self._runtime.terms
        hand.ahead = self._pace.handed_ahead if hand.concurrency == 1 and not limited else 0
        while hand.waiting and hand.free and not self._worn:
            held = hand.waiting[0]
            other_env = held.header.env_tag not in ("", self._presence.env_tag)
            if held.claimed.revision != self._runtime.revision or other_env:
                # The same worker takes other code, or other values of env, in a fresh executor.
                if not hand.running and self.terms(self._loading.want(held.claimed.revision)):
                    self._presence.env_tag = held.header.env_tag  # also where newer ones have come since
                return
            if held.once and not self._may_enter(held):
                return
            if self._runtime.batches and hand.running and _suspects((held, *hand.running.values())):
                return
            hand.waiting.popleft()
            if self._readable(held):
                self._hand_over(held, process)

    def _hand_over(self, held: Assignment, process: ExecutorProcess) -> None:
        hand = self._hand
        held.first = process is not self._served and (hand.concurrency > 1 or not hand.running)
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

    def _replaced(self, process: ExecutorProcess) -> bool:
        """Replace the executor, which is due, once nothing runs in it; whether that was done now."""
        if self._hand.running:
            for held in reversed(self._hand.ahead_of_time):
                held.asked_back = True
                process.cancel(held.job, held.fence, "give-back")
            return False
        log.info("the executor is replaced: %s", self._worn)
        self._runtime.end(self.echo.write)
        self._restart()
        return True

    def _restart(self) -> None:
        self._runtime.restart()
        self._worn, self._jobs_run, self._told_to_end = "", 0, False

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

    def terms(self, record: Revision | None) -> bool:
        """Take the terms of a revision that is being loaded; whether one is."""
        if record is not None:
            self._hand.concurrency = record.concurrency
        return record is not None

    # -- what is said of loading, and by the broker --------------------------------------------------
    def on_unstartable(self, revision: str, failure: Failure) -> None:
        """Code that cannot be started: its jobs fail."""
        for held in self._hand.take_revision(revision):
            self._exchange.settle(self._outcomes.failure(held, failure))

    def on_start_trouble(self, revision: str) -> None:
        """Code that did not start, though elsewhere it may: its jobs go back."""
        self._exchange.release(self._hand.take_revision(revision))

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
        running.kill_at = time.monotonic() + self._grace_s
        running.end_at = running.kill_at - self._grace_s * _END_SHARE
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

    # -- what the executor says ----------------------------------------------------------------------
    def receive(self, ready: set[int]) -> None:
        """Take in what the executor and the host agent sent, where one of their descriptors is among these."""
        self._calls.receive(ready)
        process = self._runtime.process
        if process is None:
            return
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
                elif frame.type is FrameType.PROGRESS:
                    self._at(frame).progress = _checked(frame.blob)
                elif frame.type is FrameType.OUTPUT:
                    self._on_jobs_output(frame)
                elif frame.type in job_calls.FRAMES:
                    self._calls.on_frame(self._at(frame), frame)
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
        self.echo.write(data)
        if self._hand.running and self._hand.concurrency == 1:  # else nobody can tell whose output it is
            self._keep_output(next(iter(self._hand.running.values())), data)

    def _on_jobs_output(self, frame: Frame) -> None:
        """Lines of one of several jobs."""
        held, process = self._at(frame), self._runtime.process
        self.echo.write(frame.blob)
        if process is not None:
            process.tail.append(frame.blob)
        self._keep_output(held, frame.blob)

    def _keep_output(self, held: Assignment, data: bytes) -> None:
        if held.logged < presence.MOST_LOG_BYTES:
            self._exchange.log(held, held.logged, data)
            held.logged += len(data)

    def _at(self, frame: Frame) -> Assignment:
        """The job that a frame of the executor is about. Raises FrameError where it is not at that."""
        held = self._hand.running.get(frame.meta["job"])
        if held is None or held.fence != frame.meta["fence"]:
            raise FrameError(f"a {frame.type.name} of job {frame.meta['job']!r:.250}, which it is not at")
        if frame.meta.get("encoding", _encoding(held)) != _encoding(held):
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
        if held.progress:
            self._tell_progress(held)
        self._calls.ended(held, stopped=frame.meta["status"] in ("cancelled", "timeout"))
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
        self._note_wear(process)
        execution_ms = frame.meta["execution_ms"]
        self._pace.observe(execution_ms / 1000)
        timing: dict[str, Any] = {"execution_ms": execution_ms}
        self._served = process
        if held.first and self._runtime.start is not None:
            submitted_at = self._presence.local_time(held.claimed.enqueued_ms)
            if parts := self._runtime.start.parts(submitted_at, now):
                timing["startup_ms"] = parts
        self._exchange.settle(verdicts.of_outcome(held, frame, self._outcomes, timing, process.tail.text))
        self._exchange.look()
        if frame.meta["status"] == "error" and recycling.is_poisoned(frame.meta["error"]):
            log.warning("job %s poisoned its CUDA context: the executor is replaced", held.job)
            self._kill_executor()

    def _note_wear(self, process: ExecutorProcess) -> None:
        self._jobs_run += 1
        if terms := self._runtime.terms:
            self._worn = recycling.is_due(terms, jobs=self._jobs_run, rss_bytes=process.rss_bytes())

    def _tell_to_end(self) -> None:
        """A job that was told to stop goes on: SIGTERM, which what runs beside Python in there may heed."""
        if self._runtime.process is not None:
            self._told_to_end = True
            self._runtime.process.terminate()

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
        self._restart()

    def _on_executor_ended(self, *, all_read: bool = True) -> None:
        """`all_read`: so what was handed ahead has not begun, for the outcome of what ran before it is missing."""
        process = self._runtime.process
        assert process is not None
        if self._runtime.phase is Phase.LOADING:
            self._runtime.on_closed()
        if self._runtime.phase is not Phase.READY:
            return
        process.kill()
        how, tail = self._runtime.exit_description(), process.tail.text()
        log.warning("the executor %s with %d job(s) in it", how, len(self._hand.running))
        if all_read:
            self._exchange.release(self._hand.take_running(beyond=self._hand.concurrency))
        for held in self._hand.take_running():
            if held.stop is not None:
                self._exchange.settle(
                    verdicts.stopped(held, held.stop, self._outcomes, killed=True, log=tail)
                )
            elif self._told_to_end:  # for another's sake
                self._exchange.release([held])
            else:
                final = self._outcomes.failure(held, verdicts.crashed(held, how, tail))
                self._exchange.crash(held, f"the process running it {how}", final)
        self._exchange.look()
        self._restart()


def _suspects(batch: Iterable[Assignment]) -> bool:
    """Whether one of a batch was lost before: perhaps it ends its process, and would take the others along again."""
    return any(held.claimed.losses for held in batch)


def _encoding(held: Assignment) -> Literal["json", "pickle"]:
    """How a job's arguments are written, and so its result."""
    return "json" if held.header.encoding == "json" else "pickle"


def _checked(progress: bytes) -> bytes:
    """Raises FrameError where it is nothing that `CurrentJob.progress` sends."""
    try:
        json.loads(progress)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"progress that is no JSON: {error}") from None
    if len(progress) > MOST_PROGRESS:
        raise FrameError(f"progress of {len(progress)} bytes")
    return progress
