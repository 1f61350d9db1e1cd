"""A worker's exchange with the broker: its steps, its bell, and getting both back after a loss.

At most one ADVANCE (finish, start, claim in one round trip) is under way; what happens meanwhile travels with
the next one, so short jobs batch themselves and long ones never wait. Knows nothing of executors.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from flashq.errors import BrokerError, BrokerUnreachable
from flashq.store.line import Line, pack, refusal
from flashq.store.replies import handed_over
from flashq.store.stream import CommandStream
from flashq_worker.pacing import PATIENCE_S, Backoff
from flashq_worker.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.store.records import Advanced, Claim, Claimed, Settlement
    from flashq_worker.assignment import Assignment, Stop
    from flashq_worker.config import WorkerConfig
    from flashq_worker.hand import Hand
    from flashq_worker.pacing import Pace

log = logging.getLogger("flashq.worker")
_RECONNECT_S = (0.2, 0.5)  # the first pause after losing the broker, and the longest
_REFUSED_S = (0.2, 5.0)  # after it refused something: its disk or memory is full, it is a replica
_BEGIN_S = 0.01  # a job that ends within this is begun and finished in one step
_REMEMBERED = 4096  # jobs completed here, whose calls would be replays
_LOOK_S = 1.0  # a bell is only a hint: a worker with room looks for work this often all the same


class Events(Protocol):
    """What the broker has to say, as it is heard."""

    def on_claimed(self, rows: tuple[Claimed, ...], begun: int) -> None:
        """Jobs were claimed; the first `begun` count as begun."""

    def on_started(self, held: Assignment, verdict: str) -> None:
        """A START that was waited for: 'ok', 'cancel' or 'stale'."""

    def on_stop(self, job: str, why: Stop) -> None:
        """The caller of this job wants it stopped."""

    def on_not_ours(self, job: str, fence: int) -> None:
        """This delivery of a job is not this worker's any more."""

    def on_taken(self, job: str, fence: int, number: int) -> None:
        """A reader has what this run of a job yielded up to this number."""

    def on_drain(self) -> None:
        """Take nothing more, and end."""

    def on_gone(self) -> None:
        """The broker does not know this worker any more."""


class Exchange:
    """Connections of one worker. Driven by a loop that waits on `readers()` and calls `receive` and `flush`."""

    def __init__(self, broker: Broker, config: WorkerConfig, hand: Hand, pace: Pace, events: Events) -> None:
        self._broker = broker
        self._transitions = broker.transitions
        self._config = config
        self._hand, self._pace, self._events = hand, pace, events
        self._stream = CommandStream(broker.library)
        self._bell: Line | None = None
        self._connected = False
        self._completed = Recent(_REMEMBERED)
        self.listening = False  # whether the bell has been asked for
        self._bell_request = pack("BLPOP", broker.keys.of("bell", config.worker), 0)
        self._lease_ms = int(config.lease_s * 1000)
        self._settled: list[Settlement] = []
        self._begun: list[Assignment] = []
        self._begun_by = 0.0  # when their START is to be sent though no step is due
        self._refused: list[
            tuple[str, Callable[[], None]]
        ] = []  # a job, and what says of it again what was refused
        self._taken = Recent(
            _REMEMBERED
        )  # deliveries heard of: a ring may come when what it rings for is over
        self._unreachable = Backoff(*_RECONNECT_S)
        self._refusing = Backoff(*_REFUSED_S)
        self._deaf = Backoff(*_REFUSED_S)  # as to the bell
        self._advancing = False
        self._under_way: Counter[str] = Counter()  # chunks of each job that the broker has yet to confirm
        self._nonce = 0
        self._look = True
        self.due_at = 0.0  # when something is to be done though nothing was heard
        self._clock_offset_ms = 0.0

    # -- connections ---------------------------------------------------------------------------------
    def connect(self) -> None:
        """Connect where it is not, unless that failed a moment ago."""
        if self._stream.line is not None or time.monotonic() < self.due_at:
            return
        try:
            line, bell = self._broker.connect(), Line(self._config.url)
        except BrokerError as error:
            self._lost(error)
            return
        self._unreachable.succeeded()
        again = self._connected
        self._connected = True
        self._stream.attach(line)
        self._bell = bell
        if again:
            self._recover()
        self.listening = False
        self._look = True

    def _recover(self) -> None:
        """Ask for what was handed over with a ring that was lost."""

        def answered(answer: Claim | None, error: Exception | None) -> None:
            if answer is None:
                self._trouble(error)
                self._refused.append(("", self._recover))
            else:
                self._take(answer.jobs)

        known = [held.job for held in self._hand] + [done.job for done in self._settled]
        known += [job for job, _ in self._refused if job]
        self._stream.add(
            self._transitions.recover(self._config.endpoint, self._config.worker, known), answered
        )

    def _listen(self) -> None:
        if self._bell is not None and not self.listening:
            self.listening = True
            self._bell.send(self._bell_request)

    def _disconnect(self, error: Exception) -> None:
        self.close()
        self._lost(error)

    def _lost(self, error: Exception) -> None:
        if self._unreachable.failed(time.monotonic()):
            log.warning("%s; trying again", error)
        self.due_at = self._unreachable.until

    def _trouble(self, error: Exception | None) -> None:
        """The broker refused something: say so once, and leave it in peace for a while."""
        if self._refusing.failed(time.monotonic()):
            log.error("the broker refused a step, and is asked again: %s", error)

    def close(self) -> None:
        """Let go of the connections; what had no answer is sent again after the next `connect`."""
        self._stream.drop()
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def readers(self) -> list[int]:
        """The descriptors to wait on for reading."""
        if self._stream.line is None or self._bell is None:
            return []
        return [self._stream.line.fileno(), self._bell.fileno()]

    def receive(self, ready: set[int]) -> None:
        """Take in what has arrived on these descriptors."""
        try:
            if self._stream.line is not None and self._stream.line.fileno() in ready:
                self._stream.receive()
            if self._bell is not None and self._bell.fileno() in ready:
                self._on_bell(self._bell)
        except BrokerUnreachable as error:
            self._disconnect(error)

    def _on_bell(self, bell: Line) -> None:
        self.listening = False
        for reply in bell.receive():
            if isinstance(reply, list):
                self._deaf.succeeded()
                try:
                    self._on_ring(reply[1])
                except (ValueError, IndexError) as error:
                    log.warning("a ring that makes no sense is ignored: %r", error)
            elif isinstance(lost := refusal(reply), BrokerUnreachable):
                raise lost  # it is no primary any more
            elif self._deaf.failed(time.monotonic()):
                log.error("the broker does not let this worker wait for its bell: %s", reply)

    def _on_ring(self, rung_for: bytes) -> None:
        if rung_for.startswith(b"claim:"):
            self._take((handed_over(rung_for[6:]),))
            return
        if rung_for.startswith(b"cancel:"):
            self._events.on_stop(rung_for[7:].decode(), "cancel")
        elif rung_for.startswith(b"taken:"):
            job, fence, number = rung_for[6:].decode().split(":")
            self._events.on_taken(job, int(fence), int(number))
            return
        elif rung_for == b"drain":
            self._events.on_drain()
        self._look = True

    def _take(self, rows: Iterable[Claimed], begun: int = 0) -> None:
        """Pass on what was claimed, each delivery once. The first `begun` of the rows began."""
        fresh = [
            (index, row) for index, row in enumerate(rows) if f"{row.job}:{row.fence}" not in self._taken
        ]
        for _, row in fresh:
            self._taken.append(f"{row.job}:{row.fence}")
        if fresh:
            self._events.on_claimed(tuple(row for _, row in fresh), sum(index < begun for index, _ in fresh))

    # -- what is to be said --------------------------------------------------------------------------
    @property
    def unsettled(self) -> bool:
        """Whether the broker has yet to hear of something, or to confirm it."""
        return bool(self._settled or self._refused) or self._stream.busy

    @property
    def act_by(self) -> float:
        """When what is held back is to be sent though nothing happens; infinity where nothing is."""
        if self._stream.line is None:
            return float("inf")
        due = [self._deaf.until if self._deaf.failing and not self.listening else float("inf")]
        if self._refused:
            due.append(self._refusing.until)
        if self._sayable and not self._advancing:
            due.append(self._refusing.until)
        elif self._begun and not self._advancing:
            due.append(max(self._begun_by, self._refusing.until))
        return min(due)

    @property
    def look_at(self) -> float:
        """When to look for work though nothing was heard; infinity while the step that does is under way."""
        return float("inf") if self._advancing else max(self.due_at, self._refusing.until)

    def completed(self, job: str) -> bool:
        """Whether this worker stored this job's result: its call, seen again, is a replay."""
        return job in self._completed

    def now_ms(self) -> int:
        """The broker's clock, as of its last answer."""
        return int(time.monotonic() * 1000 + self._clock_offset_ms)

    def look(self) -> None:
        """There may be work to claim."""
        self._look = True

    def settle(self, settlement: Settlement) -> None:
        """Store an outcome, with the next step."""
        if settlement.state == "retry":
            self._add(settlement.job, self._transitions.finish(settlement, self._config.worker))
        else:
            self._settled.append(settlement)

    def begin(self, held: Assignment) -> None:
        """Count the attempt of a job that is handed to the executor, with the next step."""
        if not held.began:
            held.began = True
            if not self._begun:
                self._begun_by = time.monotonic() + _BEGIN_S
            self._begun.append(held)

    def start(self, held: Assignment) -> None:
        """Have it recorded that a job begins, and be told (`on_started`), before anything of it is run."""

        def answered(answer: str | None, error: Exception | None) -> None:
            if answer is None:
                self._trouble(error)
                self._refused.append((held.job, lambda: self.start(held)))
                return
            held.starting = False
            self._events.on_started(held, answer)

        held.starting = True
        self._stream.add(self._transitions.start(held.job, held.fence, self._config.worker), answered)

    def release(self, jobs: list[Assignment]) -> None:
        """Give jobs back uncounted. Given in the order of their claims, they wait in that order."""
        worker = self._config.worker
        for held in reversed(jobs):  # each goes to the front of its queue
            if held in self._begun:
                self._begun.remove(held)
            release = self._transitions.release(held.job, held.fence, worker, begun=held.handed)
            self._add(held.job, release)

    def crash(self, held: Assignment, why: str, final: Settlement) -> None:
        """The executor died under a job; `final` is stored if it may not run again."""
        worker = self._config.worker
        if held in self._begun:  # its attempt counts, though no step has told of it yet
            self._begun.remove(held)
            self._add(held.job, self._transitions.start(held.job, held.fence, worker))
        crash = self._transitions.crash(held.job, held.fence, why, final.outcome, final.keep_s, worker)
        self._add(held.job, crash)

    def progress(self, held: Assignment, number: int, value: bytes) -> None:
        """Say how far a job is, for the `number`th time, if the broker can hear it."""

        def answered(_: Any, error: Exception | None) -> None:
            if error is not None and not self._refusing.failing:
                log.warning("progress of job %s is not kept: %s", held.job, error)

        command = self._transitions.progress(held.job, held.fence, self._config.worker, number, value)
        self._stream.add(command, answered)

    def lend(self, lends: bool) -> None:
        """Tell the broker whether all that runs here waits for what it called."""
        self._add("", self._transitions.lend(self._config.endpoint, self._config.worker, lends=lends))

    def log(self, held: Assignment, at: int, output: bytes) -> None:
        """Keep a piece of a job's output, which comes behind `at` bytes of it, if the broker can."""

        def answered(_: Any, error: Exception | None) -> None:
            if error is not None and not self._refusing.failing:
                log.warning("output of job %s is not kept: %s", held.job, error)

        self._stream.add(self._transitions.log(held.job, held.fence, at, output), answered)

    def chunk(self, held: Assignment, number: int, chunk: bytes) -> None:
        """Pass on what a job yields. How it ended is not said before the broker has all of it."""
        command = self._transitions.chunk(held.job, held.fence, self._config.worker, number, chunk)

        def answered(answer: tuple[str, int] | None, error: Exception | None) -> None:
            if answer is None:
                self._trouble(error)
                self._refused.append((held.job, lambda: self._stream.add(command, answered)))
                return
            self._under_way[held.job] -= 1
            if not self._under_way[held.job]:
                del self._under_way[held.job]
            verdict, taken = answer
            if verdict == "stale":
                self._events.on_not_ours(held.job, held.fence)
            else:
                self._events.on_taken(held.job, held.fence, taken)

        self._under_way[held.job] += 1
        if any(job == held.job for job, _ in self._refused):  # none overtakes one that is to be sent again
            self._refused.append((held.job, lambda: self._stream.add(command, answered)))
        else:
            self._stream.add(command, answered)

    def _add(self, job: str, command: Command[Any]) -> None:
        def answered(answer: Any, error: Exception | None) -> None:
            if error is not None:
                self._trouble(error)
                self._refused.append((job, lambda: self._add(job, command)))
                return
            if answer in ("stale", "gone"):
                log.warning("%s came too late and was refused (%s)", command.script, answer)
            self._look = True

        self._stream.add(command, answered)

    def _say_again(self) -> None:
        refused, self._refused = self._refused, []
        for _, say in refused:
            say()

    @property
    def _sayable(self) -> list[Settlement]:
        """How jobs ended of which nothing else is under way."""
        return [settlement for settlement in self._settled if settlement.job not in self._under_way]

    # -- steps ---------------------------------------------------------------------------------------
    def flush(self, *, may_claim: bool, listen: bool) -> None:
        """Take the next step if one is due, send what is queued, and with `listen` wait for the bell."""
        now = time.monotonic()
        if now >= self.due_at:
            self._look = True
        try:
            if self._stream.line is not None:
                if now >= self._refusing.until:
                    if self._refused:
                        self._say_again()
                    wants_work = self._look and may_claim and self._hand.room > 0
                    begun = self._begun and now >= self._begun_by
                    if not self._advancing and (self._sayable or begun or wants_work):
                        self._advance(may_claim, now)
                self._stream.flush()
                # One who says that it has nothing left is rung for as soon as that is heard: it listens by then.
                idle = not self._advancing or not len(self._hand)
                if listen and idle and now >= self._deaf.until:
                    self._listen()
        except BrokerUnreachable as error:
            self._disconnect(error)

    def _advance(self, may_claim: bool, now: float) -> None:
        hand = self._hand
        done = self._sayable
        self._settled = [settlement for settlement in self._settled if settlement not in done]
        begun, self._begun = self._begun, []
        room = hand.room if may_claim else 0
        ahead = self._pace.ahead if now < hand.oldest_began_at + PATIENCE_S else 0  # what runs is a long one
        count = max(0, hand.concurrency + ahead - len(hand)) if may_claim else 0
        start = 0 if hand.waiting else room
        self._nonce += 1
        command = self._transitions.advance(
            self._config.endpoint,
            self._config.worker,
            str(self._nonce),
            done=done,
            begin=[(h.job, h.fence, int((now - h.began_at) * 1000)) for h in begun],
            count=count,
            lease_ms=self._lease_ms,
            start=start,
            holding=len(hand),
            room=room,
        )
        self._look = False
        self.due_at = now + _LOOK_S * (1 + random.random() / 4)  # noqa: S311 — not all at once
        self._advancing = True

        def answered(answer: Advanced | None, error: Exception | None) -> None:
            self._advancing = False
            if answer is None:
                self._trouble(error)
                self._settled = done + self._settled
                self._begun = begun + self._begun
                self.due_at = max(self.due_at, self._refusing.until)
            else:
                if self._refusing.succeeded():
                    log.info("the broker takes steps again")
                self._on_advanced(answer, done, begun, asked=count, start=start)

        self._stream.add(command, answered)

    def _on_advanced(
        self, answer: Advanced, done: list[Settlement], begun: list[Assignment], *, asked: int, start: int
    ) -> None:
        for settlement, verdict in zip(done, answer.finished, strict=True):
            if verdict == "ok" and settlement.state == "finished":
                self._completed.append(settlement.job)
        self._clock_offset_ms = answer.claim.now_ms - time.monotonic() * 1000
        if answer.claim.verdict == "gone":
            self._events.on_gone()
            return
        if answer.claim.verdict == "drain":
            self._events.on_drain()
        for held, verdict in zip(begun, answer.started, strict=True):
            if verdict == "cancel":
                self._events.on_stop(held.job, "cancel")
            elif verdict == "stale":
                self._events.on_not_ours(held.job, held.fence)
        if answer.claim.jobs:
            self._look = len(answer.claim.jobs) == asked
            self._take(answer.claim.jobs, start)
