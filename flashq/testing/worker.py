"""The worker of `flashq.testing`: a thread that stands for supervisor and executor, one job at a time.

It claims, verifies, unpickles and signs with the worker's own code; only what runs the function is its own.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import aclosing, closing, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import cloudpickle

from flashq import codec
from flashq.errors import BrokerError, FlashqError, WrongBinding
from flashq.model.envelope import open_sealed
from flashq.model.keyring import Direction, Keyring
from flashq.model.outcome import Failure, FailureKind
from flashq.store.queries import cancel_requested
from flashq.store.workers import facts
from flashq_worker import assignment, verdicts
from flashq_worker.executor import delivery, outcome
from flashq_worker.executor.frames import Frame, FrameType
from flashq_worker.executor.targets import Target, Targets
from flashq_worker.outcomes import OutcomeWriter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

    from flashq.store.broker import Broker
    from flashq.store.memory import MemoryBroker
    from flashq.store.records import Claimed, Settlement
    from flashq_worker.assignment import Assignment

_SKIPPED = "flashq.testing:skipped-ms"
#: The time of this machine, and what was skipped, in place of the server's TIME.
CLOCK = (
    "(function() local t = redis.call('TIME')"
    f" local ms = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(redis.call('GET', '{_SKIPPED}') or '0')"
    " return {math.floor(ms / 1000), ms % 1000 * 1000} end)()"
)
_LEASE_MS = 86_400_000  # nobody else is there to take a job over
_CLOSE_S = 1.0


class LocalWorker:
    """Claims, verifies and runs what waits on every endpoint, one job at a time, in a thread of its own.

    `deliver` is called after every step; `broken` if this worker itself fails.
    """

    def __init__(
        self,
        memory: MemoryBroker,
        keyring: Keyring,
        *,
        limit: int,
        deliver: Callable[[], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._memory = memory
        self._transitions = memory.transitions
        self._keyring = keyring
        self._limit = limit
        self._deliver, self._broken = deliver, broken
        self._joined: dict[str, str] = {}  # endpoint → the worker's id there
        self._loaded: dict[tuple[str, str], Targets] = {}
        self._gathers: set[tuple[str, str]] = set()  # of those, what takes lists: here of one item
        self._task: tuple[Assignment, asyncio.AbstractEventLoop, asyncio.Future[Any]] | None = None
        self._now_ms = 0
        self._hurried = False
        self._ending = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flashq-local-worker", daemon=True)
        self._thread.start()

    # -- from other threads --------------------------------------------------------------------------
    def notice(self, *, cancelled: bool) -> None:
        """Something was sent to the broker, perhaps the cancel of what runs."""
        self._wake.set()
        running = self._task
        if cancelled and running is not None:
            held, loop, task = running
            if held.stop is None and self._is_cancelled(held):
                held.stop = "cancel"
                loop.call_soon_threadsafe(task.cancel)

    def skip(self, seconds: float) -> None:
        """Set the broker's clock forward."""
        self._memory.execute("INCRBY", _SKIPPED, int(seconds * 1000))
        self._wake.set()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """For a while, skip the time until something is due instead of waiting for it."""
        self._hurried = True
        self._wake.set()
        try:
            yield
        finally:
            self._hurried = False

    def close(self) -> None:
        """End, as soon as what runs lets it."""
        self._ending = True
        self._wake.set()
        if (running := self._task) is not None:
            _, loop, task = running
            loop.call_soon_threadsafe(task.cancel)
        self._thread.join(_CLOSE_S)

    # -- in its thread -------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                while not self._ending:
                    self._wake.clear()
                    if any(self._serve(endpoint, runner) for endpoint in self._endpoints()):
                        continue
                    due_s = self._due_in_s()
                    if due_s is not None and self._hurried:
                        self.skip(due_s)
                    else:
                        self._wake.wait(due_s)
        except Exception as error:  # noqa: BLE001 — whoever waits for a job must hear of it
            if not self._ending:
                self._broken(BrokerError(f"the local worker broke down: {type(error).__name__}: {error}"))

    def _endpoints(self) -> list[str]:
        return sorted(
            name.decode() for name in self._memory.execute("SMEMBERS", self._memory.keys.of("endpoints"))
        )

    def _serve(self, endpoint: str, runner: asyncio.Runner) -> bool:
        """Do what is due on one endpoint; whether a job was run."""
        memory, transitions = self._memory, self._transitions
        worker = self._joined.get(endpoint) or self._join(endpoint)
        memory.execute("DEL", memory.keys.of("bell", worker))
        memory.run(transitions.reap(endpoint, lease_ms=_LEASE_MS))
        claim = memory.run(
            transitions.claim(
                endpoint, worker, uuid4().hex, count=1, lease_ms=_LEASE_MS, start=1, holding=0, room=1
            )
        )
        self._now_ms = claim.now_ms
        if claim.verdict == "gone":  # the clock was set forward by more than a lease
            del self._joined[endpoint]
        for row in claim.jobs:
            memory.run(transitions.finish(self._work(endpoint, row, runner)))
        self._deliver()
        return bool(claim.jobs) or claim.verdict == "gone"

    def _join(self, endpoint: str) -> str:
        worker = self._joined[endpoint] = f"{endpoint}-{uuid4()}"
        fields = {"hostname": "local", **facts(host="local")}
        self._memory.run(
            self._transitions.join(endpoint, worker, lease_ms=_LEASE_MS, booked=False, fields=fields)
        )
        self._memory.run(self._transitions.ready(endpoint, worker, {}))
        return worker

    def _due_in_s(self) -> float | None:
        """When something is to be done though nobody calls: a delay is over, a job expires. None: never."""
        execute, of = self._memory.execute, self._memory.keys.of
        due_ms: list[float] = []
        for endpoint in self._endpoints():
            queues = execute("ZRANGE", of("endpoint_queues", endpoint), 0, -1)
            for queue in queues:
                first = execute("ZRANGE", of("scheduled", queue.decode()), 0, 0, "WITHSCORES")
                due_ms += [float(score) * 1000 for score in first[1:]]
            due_ms += [
                float(score) for score in execute("ZRANGE", of("ttls", endpoint), 0, 0, "WITHSCORES")[1:]
            ]
        return max(0.001, (min(due_ms) - self._now_ms) / 1000) if due_ms else None

    # -- one job -------------------------------------------------------------------------------------
    def _work(self, endpoint: str, row: Claimed, runner: asyncio.Runner) -> Settlement:
        keys = self._keyring.for_endpoint(endpoint)
        outcomes = OutcomeWriter(keys, endpoint, self._limit)
        try:
            held = assignment.verify(row, keys, endpoint, now_ms=self._now_ms, limit=self._limit)
        except FlashqError as error:
            return verdicts.refused(row, error)
        try:
            targets = self._load(endpoint, row.revision)
            target = targets.of({"target": held.header.target})
            if (endpoint, row.revision) in self._gathers:
                target = target._replace(run=_alone(target.run), streams=False)
        except FlashqError as error:
            return verdicts.refused(row, error)
        except BaseException as error:  # noqa: BLE001 — unpickling the function runs user code
            why = f"endpoint {endpoint} cannot start: {type(error).__name__}: {error}"
            return outcomes.failure(held, Failure(FailureKind.START, why))
        result = self._execute(held, target, runner, outcomes)
        frame = Frame(FrameType.OUTCOME, result.meta, result.blob)
        timing = {"execution_ms": result.meta["execution_ms"]}
        return verdicts.of_outcome(held, frame, outcomes, timing, lambda: "")

    def _load(self, endpoint: str, revision: str) -> Targets:
        """What a revision has to be called, out of its signed record. Raises what unpickling it raises."""
        found = self._loaded.get((endpoint, revision))
        if found is None:
            raw = self._memory.execute("GET", self._memory.keys.of("revision", endpoint, revision))
            opened = open_sealed(raw or b"", self._keyring, direction=Direction.REVISION, endpoint=endpoint)
            if opened.header.revision != revision:
                raise WrongBinding(f"a record of another revision is filed under {revision[:12]}")
            record = codec.Revision.unpack(opened.payload)
            found = Targets(cloudpickle.loads(record.function), record.mode, record.targets, record.types)
            self._loaded[endpoint, revision] = found
            if record.batch_ms is not None:
                self._gathers.add((endpoint, revision))
        return found

    def _execute(
        self,
        held: Assignment,
        target: Target,
        runner: asyncio.Runner,
        outcomes: OutcomeWriter,
    ) -> outcome.Outcome:
        run = _run_of(held)
        delivery.begin(run, held.header.endpoint)
        started = perf_counter()
        try:
            args, kwargs = target.arguments(held.header.encoding, held.payload)
            value = target.run(*args, **kwargs)
            if target.streams and inspect.isasyncgen(value):
                value = runner.run(self._awaited(held, self._ayielded(held, value, outcomes)))
            elif target.streams:
                value = self._yielded(held, value, outcomes)
            elif inspect.iscoroutine(value):
                value = runner.run(self._awaited(held, value))
        except outcome.Unserializable as error:
            result = outcome.unserializable(run, outcome.milliseconds_since(started), error)
        except BaseException as error:  # noqa: BLE001 — whatever the function raises ends the job, not the worker
            result = outcome.raised(run, outcome.milliseconds_since(started), error)
        else:
            result = outcome.returned(run, outcome.milliseconds_since(started), value)
        spent_ms = outcome.milliseconds_since(started)
        if held.stop is None and held.header.timeout_ms and spent_ms > held.header.timeout_ms:
            held.stop = "timeout"
        elif held.stop is None and self._is_cancelled(held):
            held.stop = "cancel"
        return result if held.stop is None else outcome.interrupted(run, spent_ms, held.stop)

    def _yielded(self, held: Assignment, values: Generator[Any, None, Any], outcomes: OutcomeWriter) -> Any:
        """Pass on what a generator yields; what it returns. Here it runs ahead of its reader as far as it likes."""
        with closing(values):
            while held.stop is None:
                try:
                    self._pass_on(held, next(values), outcomes)
                except StopIteration as end:
                    return end.value
        return None

    async def _ayielded(
        self, held: Assignment, values: AsyncGenerator[Any, Any], outcomes: OutcomeWriter
    ) -> None:
        async with aclosing(values):
            async for value in values:
                self._pass_on(held, value, outcomes)

    def _pass_on(self, held: Assignment, value: Any, outcomes: OutcomeWriter) -> None:
        made = outcome.chunk(_run_of(held), held.outflow.count + 1, value)
        number = held.outflow.yielded(len(made.blob))
        raw = outcomes.chunk(held, number, held.header.encoding, made.blob)
        worker = self._joined[held.header.endpoint]
        self._memory.run(self._transitions.chunk(held.job, held.fence, worker, number, raw))
        if self._is_cancelled(held):
            held.stop = "cancel"

    async def _awaited(self, held: Assignment, value: Awaitable[Any]) -> Any:
        delivery.begin(_run_of(held), held.header.endpoint)  # the runner has a context of its own
        task = asyncio.ensure_future(value)
        self._task = held, asyncio.get_running_loop(), task
        if self._is_cancelled(held):  # before anybody could know what to stop
            task.cancel()
        try:
            async with asyncio.timeout(held.header.timeout_ms / 1000 or None):
                return await task
        finally:
            self._task = None

    def _is_cancelled(self, held: Assignment) -> bool:
        return cancel_requested(cast("Broker", self._memory), held.job)


def _alone(function: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    """A function of batches, for one item."""

    def run(item: Any) -> Any:
        (value,) = function([item])
        if isinstance(value, BaseException):
            raise value
        return value

    return run


def _run_of(held: Assignment) -> dict[str, Any]:
    """What an executor would be told of it."""
    return {
        "job": held.job,
        "fence": held.fence,
        "attempt": held.claimed.attempt,
        "encoding": held.header.encoding,
    }
