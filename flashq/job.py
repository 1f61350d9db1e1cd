"""`EndpointJob`, what a caller holds of a call: awaitable, waitable, and honest about where its time went.

A job is completed from the client's I/O thread; whoever waits (threads, tasks of any event loop) is woken. The
value is unpickled in the waiter's thread, once, and only after its signature was verified.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Protocol, TypeVar, cast

from flashq.errors import WaitTimeout
from flashq.model.lifecycle import STATUS, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from flashq.client import Client
    from flashq.model.durability import Durability
    from flashq.model.envelope import Keys
    from flashq.model.outcome import Ending
    from flashq.stream import Stream

R = TypeVar("R")
_NOTHING: Any = object()


class Waiter(Protocol):
    """How a process waits in which no thread of ours delivers: the executor of a job (see `nested`)."""

    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Take in what arrives until `done()`, at most so long; whether it is."""

    def awaiting(self) -> AbstractContextManager[None]:
        """A task of its event loop waits meanwhile."""


class Reply(Generic[R]):
    """Something on its way: `await` it, or take it with `result(timeout)` from blocking code."""

    waiter: ClassVar[Waiter | None] = None
    """None: another thread delivers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = _NOTHING
        self._error: BaseException | None = None
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """True once the answer (or the error) is there."""
        return self._value is not _NOTHING or self._error is not None

    @property
    def error(self) -> BaseException | None:
        """The error that was the answer; None where it was a value, or is not there."""
        return self._error

    def set(self, value: R) -> None:
        """Deliver the answer. The first delivery counts."""
        self._deliver(value, None)

    def fail(self, error: BaseException) -> None:
        """Deliver an error."""
        self._deliver(_NOTHING, error)

    def copy(self, other: Reply[R]) -> None:
        """Deliver what `other`, which is done, was delivered."""
        self._deliver(other._value, other._error)

    def _deliver(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self.done:
                return
            self._value, self._error = value, error
            callbacks, self._callbacks = self._callbacks, []
            event = self._event
        if event is not None:
            event.set()
        for callback in callbacks:
            callback()

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call back once it is done (at once if it is), from the delivering thread."""
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is done, at most `timeout` seconds; False where it is not."""
        if self.waiter is not None:
            return self.done or self.waiter.wait(lambda: self.done, timeout)
        with self._lock:
            if self.done:
                return True
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        return event.wait(timeout)

    def result(self, timeout: float | None = None) -> R:
        """The answer, waited for.

        Raises: WaitTimeout after `timeout` seconds; whatever error was the answer.
        """
        if not self.wait(timeout):
            raise WaitTimeout(f"no answer within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return cast("R", self._value)

    async def until_done(self) -> None:
        """Return once it is done, in whichever event loop."""
        if self.done:
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        def from_thread() -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:  # the loop was closed while we waited: nobody is there to wake
                return

        self.on_done(from_thread)
        with nullcontext() if self.waiter is None else self.waiter.awaiting():
            await woken

    async def _get(self) -> R:
        await self.until_done()
        return self.result(0)

    def __await__(self) -> Generator[Any, None, R]:
        return self._get().__await__()


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a job's time went, in seconds (None: not reached, or not known).

    `startup`: of a job that waited for a start, all that it waited for, by part, in order: claim, environment, fork or
    spawn, imports, setup, first_job. Empty where it waited for none.
    """

    queued_s: float | None = None  # submitted → claimed
    claimed_s: float | None = None  # claimed → begun
    execution_s: float | None = None  # inside the function
    total_s: float | None = None  # submitted → ended
    attempts: int = 0
    startup: dict[str, float] = field(default_factory=dict)


class Call:
    """What this process knows of one call, before it is decoded: the client's part of an `EndpointJob`."""

    __slots__ = (
        "__weakref__",
        "acknowledged",
        "cancelling",
        "cold",
        "digest",
        "durability",
        "ended",
        "endpoint",
        "generation",
        "id",
        "keep_s",
        "keys",
        "submitted_at",
    )

    def __init__(
        self, job_id: str, endpoint: str, digest: str = "", keep_s: int = 0, generation: int = 0
    ) -> None:
        self.id = job_id
        self.endpoint = endpoint
        self.digest = digest  # of the call's signature, which its outcome quotes; empty: whichever was first
        self.keep_s = keep_s  # for how long its result is kept; 0: not known here
        self.generation = generation  # of its job: what ended an earlier one is not the end of this
        self.submitted_at = time.monotonic()
        self.cancelling = False  # its end was asked for here
        self.cold: bool | None = None
        self.durability: Durability | None = None
        self.keys: Keys | None = (
            None  # those in force when it ended: they verify its outcome, whenever it is looked at
        )
        self.acknowledged: Reply[None] = Reply()
        self.ended: Reply[Ending] = Reply()

    @property
    def settled(self) -> bool:
        """Whether it is known how its job ended."""
        return self.ended.done and self.ended.error is None


class EndpointJob(Coroutine[Any, Any, R]):
    """One call of an endpoint. It runs whether or not anybody waits for it.

    As it is awaited, so may it be given to whatever takes a coroutine: `asyncio.run(f(x))`, `create_task(f(x))`.
    """

    def __init__(self, client: Client, call: Call) -> None:
        self._client = client
        self._call = call
        self._waiting: Coroutine[Any, Any, R] | None = None
        self._value: Any = _NOTHING
        self._failure: BaseException | None = None
        self._decode = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a job is no value to be pickled: pass its id (flashq.fetch_job), or its result")

    def __repr__(self) -> str:
        state = self._call.ended.result(0).state.value if self._call.settled else "pending"
        return f"<EndpointJob {self.id} {state}>"

    @property
    def id(self) -> str:
        """Names it, in the broker and on the command line."""
        return self._call.id

    @property
    def endpoint(self) -> str:
        """The name of the endpoint that was called."""
        return self._call.endpoint

    # -- state ---------------------------------------------------------------------------------------
    @property
    def done(self) -> bool:
        """True once it has ended, or could not be submitted."""
        return self._call.ended.done

    @property
    def output(self) -> R | None:
        """Its value once it completed, else None."""
        return self._value_or_none() if self.done else None

    @property
    def error(self) -> BaseException | None:
        """Why it has no value, once that is known; None while it runs and when it completed."""
        if not self.done:
            return None
        self._value_or_none()
        return self._failure

    @property
    def cold_start(self) -> bool | None:
        """True where no idle worker was there to take it; None until that is known.

        That is: once the broker has acknowledged it; of a delayed one, and one by `fetch_job`, once it has ended (or
        its `status` was asked for).
        """
        return self._call.cold

    @property
    def durability(self) -> Durability | None:
        """What it survived from when the broker acknowledged it: "memory", "fsync" or "fsync+replica".

        None until then, and where the broker does not tell how it keeps data.
        """
        return self._call.durability

    @property
    def timing(self) -> Timing:
        """Where its time went; asks the broker."""
        return self._client.timing(self.id).result(self._client.reply_timeout_s)

    def progress(self) -> Any:
        """What it last told of how far it is (`flashq.current().progress(…)`); None: nothing. Asks the broker.

        Raises: JobNotFound, ResultExpired, BrokerError.
        """
        return self._client.progress(self.id).result(self._client.reply_timeout_s)

    def status(self) -> Reply[Status]:
        """Its state now: `await job.status()`, or `job.status().result()`."""
        if self._call.settled:
            known: Reply[Status] = Reply()
            known.set(STATUS[self._call.ended.result(0).state])
            return known
        return self._client.waiting.status(self._call)

    # -- waiting -------------------------------------------------------------------------------------
    def result(self, timeout: float | None = None) -> R:
        """Block for its value.

        Raises: the function's own exception; a JobError where it ended without a value; a SubmitError or
        BrokerError where it was not accepted; WaitTimeout after `timeout` seconds (the job goes on). Interrupted
        (Ctrl-C), it leaves the job as it is, and says which that is.
        """
        try:
            ended = self._call.ended.wait(timeout)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"job {self.id} is not cancelled: `flashq job {self.id}` shows how it is, `flashq cancel {self.id}`"
                f' stops it, flashq.fetch_job("{self.id}").result() waits for it again'
            )
            raise
        if not ended:
            raise WaitTimeout(f"job {self.id} has not ended within {timeout:g} s; it goes on")
        return self._value_or_raise()

    async def wait(self, timeout: float | None = None) -> R:
        """Like `result`, for coroutines."""
        try:
            async with asyncio.timeout(timeout):
                await self._call.ended.until_done()
        except TimeoutError:
            raise WaitTimeout(f"job {self.id} has not ended within {timeout:g} s; it goes on") from None
        return self._value_or_raise()

    def __await__(self) -> Generator[Any, None, R]:
        return self.wait().__await__()

    # What drives a coroutine (a task, the loop of `asyncio.run`); nobody else calls these.
    def send(self, value: Any) -> Any:
        """Go on waiting for its value; StopIteration carries that."""
        if self._waiting is None:
            self._waiting = self.wait()
        return self._waiting.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in whoever waits: a task was cancelled. The job goes on."""
        if self._waiting is None:
            self._waiting = self.wait()
        return self._waiting.throw(*error)

    def close(self) -> None:
        """Give up waiting. The job goes on."""
        if self._waiting is not None:
            self._waiting.close()

    def stream(self) -> Stream[Any]:
        """What it yields, as it comes: for a function that is a generator. To be read once, by one reader.

        Unread, it stops once a bounded number of values wait, until it is cancelled or its time is up.
        """
        return self._client.stream(lambda: self, owned=False)

    # -- acting on it --------------------------------------------------------------------------------
    def requeue(self) -> Reply[EndpointJob[R]]:
        """Begin it anew, where it failed, timed out or was cancelled: its next generation, with full budgets.

        The answer is a handle of that; this one stays as it ended. Raises: UnsupportedCall where it waits, runs or has
        completed; JobNotFound, ResultExpired.
        """
        return self._client.requeue(self._call)

    def cancel(self) -> Reply[str]:
        """Ask for it to be stopped: sent at once, whether or not the answer is awaited.

        The answer: "cancelled" (it ended now), "requested" (its worker was told to stop it), or the state it had
        reached before.
        """
        return self._client.cancel(self._call)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """The lines it printed, so far; with `follow`, until it ends."""
        return self._client.logs(self.id, follow=follow)

    async def alogs(self, *, follow: bool = False) -> AsyncIterator[str]:
        """Like `logs`, for coroutines."""
        lines = self.logs(follow=follow)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            yield line

    # -- from the client -----------------------------------------------------------------------------
    def _value_or_none(self) -> R | None:
        with self._decode:
            if self._value is _NOTHING and self._failure is None:
                try:
                    self._value = self._client.waiting.decode(self._call, self._call.ended.result(0))
                except Exception as error:  # noqa: BLE001 — the user's own exception, whatever it is
                    self._failure = error
        return None if self._value is _NOTHING else cast("R", self._value)

    def _value_or_raise(self) -> R:
        value = self._value_or_none()
        if self._failure is not None:
            raise self._failure
        return cast("R", value)
