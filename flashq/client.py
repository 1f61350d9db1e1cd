"""One client per process: where the broker is, with which keys, and one I/O thread for every call.

Pickling and signing happen in the caller's thread; the I/O thread (`store.mux`) sends what is submitted with
others and takes in what is pushed. `submission` makes jobs of calls, `waiting` completes them; this module holds
what both need, from the first call to the end of the program.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from flashq.errors import ConfigurationError, UnsupportedCall
from flashq.job import Call, EndpointJob, Reply, Timing
from flashq.keychain import Keychain
from flashq.model.durability import Durability, Server
from flashq.model.job_id import endpoint_of
from flashq.notices import Told
from flashq.registration import PROGRAM
from flashq.settings import Settings
from flashq.store.keys import Keys
from flashq.store.transitions import Transitions
from flashq.submission import Submission
from flashq.waiting import CHECK_S, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq.embedded import Membership
    from flashq.endpoint_function import EndpointFunction
    from flashq.errors import SubmitError
    from flashq.model.envelope import RootKeys
    from flashq.registration import Registration
    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.stream import Stream

log = logging.getLogger("flashq")
_CLOSE_S = 5.0
_CANCEL_S = 1.0


class Transport(Protocol):
    """What carries commands: the multiplexer, or the in-memory one of `flashq.testing`."""

    def send(self, command: Command[Any], callback: Callable[[Any, Exception | None], None]) -> None: ...
    def close(self, timeout_s: float = 5.0) -> None: ...


class Client:
    """A connection of this process to the deployment `settings` name. Safe to use from any thread."""

    reply_timeout_s = 30.0

    def __init__(
        self,
        settings: Settings,
        *,
        transport: Callable[[Client], Transport] | None = None,
        keyring: RootKeys | None = None,
    ) -> None:
        self.settings = settings
        self.id = f"{PROGRAM}-{uuid.uuid4().hex[:8]}"
        self.pid = os.getpid()
        self.keys = Keys(settings.rq_prefix)
        self.transitions = Transitions(self.keys)
        self.channel = self.keys.of("push", self.id)
        self.told = Told()
        self.submission = Submission(self)
        self.waiting = Waiting(self)
        self._keyring: RootKeys | None = keyring
        self._membership: Membership | None = None
        self._broker: Broker | None = None
        self._server = Server()
        self.hear_clock(int(time.time() * 1000))  # noqa: TID251 — until the broker's is heard
        self._lock = threading.RLock()
        _import_all(settings)
        self._transport = (transport or _multiplexer)(self)

    # -- where and with what -------------------------------------------------------------------------
    def address(self) -> str:
        """The broker's URL; with none configured, this starts or joins the private one."""
        if self.settings.redis_url is not None:
            return self.settings.redis_url
        return self._member().url

    def _member(self) -> Membership:
        with self._lock:
            if self._membership is None or not self._membership.alive:
                from flashq import embedded

                self._membership = embedded.join(self.settings)
            return self._membership

    @property
    def keyring(self) -> RootKeys:
        """The signing keys: as configured, or the private broker's own; they follow their file."""
        with self._lock:
            if self._keyring is None:
                file = None
                if self.settings.redis_url is None:
                    from flashq import embedded

                    file = embedded.key_file(self.settings)
                self._keyring = Keychain.of(self.settings, file)
            return self._keyring

    @property
    def broker(self) -> Broker:
        """A blocking connection, for what is asked seldom."""
        with self._lock:
            if self._broker is None:
                from flashq.store.broker import Broker

                self._broker = Broker(self.address(), prefix=self.settings.rq_prefix)
            return self._broker

    def on_connect(self, server: Server) -> None:
        """A connection to this server was made (again)."""
        self._server = server
        if self.settings.durability is not Durability.MEMORY:
            for why in server.lossy():
                self.told.once(
                    f"lossy:{why}",
                    f"the broker may lose calls that it has acknowledged: {why}; FLASHQ_DURABILITY=memory allows it",
                )
        self.waiting.on_connect(server)

    @property
    def durability(self) -> Durability | None:
        """What the broker's acknowledgement is worth; None where that is not known."""
        return self._server.durability(confirmed=self.settings.durability is Durability.REPLICA)

    def now_ms(self) -> int:
        """The broker's clock, as of its last answer; this host's until there was one."""
        return int(time.monotonic() * 1000 + self._clock_offset_ms)

    def hear_clock(self, broker_ms: int) -> None:
        """What the broker's clock says at this moment."""
        self._clock_offset_ms = broker_ms - time.monotonic() * 1000

    # -- commands ------------------------------------------------------------------------------------
    def send(self, command: Command[Any], callback: Callable[[Any, Exception | None], None]) -> None:
        """Have a command carried out; `callback(answer, None)` or `callback(None, error)` runs in the I/O thread."""
        self._transport.send(command, callback)

    def ask(self, command: Command[Any], read: Callable[[Any], Any]) -> Reply[Any]:
        """The answer to a command, as `read` makes it; what that raises is the answer too."""
        reply: Reply[Any] = Reply()

        def answered(answer: Any, error: Exception | None) -> None:
            try:
                if error is not None:
                    raise error
                reply.set(read(answer))
            except Exception as problem:  # noqa: BLE001 — handed to whoever waits for the reply
                reply.fail(problem)

        self.send(command, answered)
        return reply

    # -- calls ---------------------------------------------------------------------------------------
    def submit(
        self,
        function: EndpointFunction[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        blocking: bool = True,
    ) -> EndpointJob[Any]:
        """Pickle, sign and send a call; returns its EndpointJob without waiting for the broker.

        Where too much is on its way to the broker already, this blocks until less is; with `blocking=False` not in a
        thread that runs an event loop, where it raises SubmitBacklog.
        Raises: SerializationError, PayloadTooLarge, SettingsError.
        """
        return self.submission.submit(function, args, kwargs, blocking=blocking)

    async def asubmit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """The same for coroutines: awaits until less is on its way."""
        return await self.submission.asubmit(function, args, kwargs)

    def registration(self, function: EndpointFunction[Any, Any]) -> Registration:
        """What the broker is told of an endpoint."""
        return self.submission.registration(function)

    def refused(self, function: EndpointFunction[Any, Any], error: SubmitError) -> EndpointJob[Any]:
        """A job that was never sent, ended by the error that kept it from being."""
        call = Call("", function.name)
        self.waiting.reject(call, error)
        return EndpointJob(self, call)

    def job(self, job_id: str) -> EndpointJob[Any]:
        """See `flashq.fetch_job`."""
        endpoint = endpoint_of(job_id)
        if not endpoint:
            raise ConfigurationError(
                f"{job_id!r} is no job's id: those are an endpoint's name, '-' and a uuid"
            )
        return self._joined(Call(job_id, endpoint))

    def _joined(self, call: Call) -> EndpointJob[Any]:
        call.acknowledged.set(None)
        self.waiting.join(call)
        return EndpointJob(self, call)

    def spawn(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """`submit`, and block until the broker has accepted it."""
        job = self.submit(function, args, kwargs)
        self.acknowledged(job)
        return job

    async def aspawn(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """The same for coroutines."""
        job = await self.asubmit(function, args, kwargs)
        await self.aacknowledged(job)
        return job

    def acknowledged(self, job: EndpointJob[Any]) -> None:
        """Block until the broker has accepted a submit. Raises what it answered instead."""
        job._call.acknowledged.result(None)  # noqa: SLF001 — client and job are one part

    async def aacknowledged(self, job: EndpointJob[Any]) -> None:
        """The same for coroutines."""
        await job._call.acknowledged  # noqa: SLF001

    def stream(self, begin: Callable[[], EndpointJob[Any]], *, owned: bool) -> Stream[Any]:
        """What a job yields. See `Stream`."""
        from flashq.stream import Stream

        return Stream(self, begin, owned=owned)

    # -- asking about a job --------------------------------------------------------------------------
    def cancel(self, call: Call) -> Reply[str]:
        """See EndpointJob.cancel."""
        call.cancelling = True
        return self.ask(self.transitions.cancel(call.id), lambda verdict: verdict)

    def requeue(self, call: Call) -> Reply[EndpointJob[Any]]:
        """See EndpointJob.requeue."""
        reply: Reply[EndpointJob[Any]] = Reply()

        def answered(verdict: str | None, error: Exception | None) -> None:
            if verdict == "ok":
                ended = call.ended.result(0).generation if call.settled else call.generation
                again = Call(call.id, call.endpoint, call.digest, call.keep_s, generation=ended + 1)
                reply.set(self._joined(again))
            elif verdict == "unknown":
                self.waiting.explain_absence(call, reply.fail)
            else:
                why = f"job {call.id} is {verdict}: only what failed, timed out or was cancelled can be requeued"
                reply.fail(error or UnsupportedCall(why))

        if not call.ended.done:  # the news of its end may still be on its way
            self.waiting.watch([call.id])
        self.send(self.transitions.requeue(call.id), answered)
        return reply

    def timing(self, job_id: str) -> Reply[Timing]:
        """See EndpointJob.timing."""
        from flashq.store.queries import job_timing

        reply: Reply[Timing] = Reply()
        reply.set(Timing(**job_timing(self.broker, job_id)))
        return reply

    def progress(self, job_id: str) -> Reply[Any]:
        """See EndpointJob.progress."""
        from flashq.store.queries import job_progress

        reply: Reply[Any] = Reply()
        reply.set(job_progress(self.broker, job_id))
        return reply

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """See EndpointJob.logs."""
        from flashq.store.queries import job_logs

        return job_logs(self.broker, job_id, follow=follow)

    # -- ending --------------------------------------------------------------------------------------
    def close(self) -> None:
        """Send what is still to be sent, then let go of the broker. Jobs go on.

        Those that were cancelled are given a moment to end: a private stack that ends meanwhile would keep them.
        """
        if os.getpid() != self.pid:
            return
        deadline = time.monotonic() + _CLOSE_S
        unsent = 0
        for call in self.waiting.calls:
            unsent += not call.acknowledged.wait(max(0.0, deadline - time.monotonic()))
        if unsent:
            log.warning("flashq: %d call(s) were not accepted by the broker before the program ended", unsent)
        deadline = time.monotonic() + _CANCEL_S
        for call in self.waiting.calls:
            if call.cancelling:
                call.ended.wait(max(0.0, deadline - time.monotonic()))
        unfinished = len(self.waiting) - unsent
        self._transport.close()
        if self._broker is not None:
            self._broker.close()
        if self._membership is not None:
            self._membership.leave(unfinished)


def _import_all(settings: Settings) -> None:
    """Import what the I/O thread uses, in the caller's thread: a fork must not find modules half imported."""
    from flashq.store import mux  # noqa: F401

    if settings.redis_url is None:
        from flashq.embedded import membership  # noqa: F401


def _multiplexer(client: Client) -> Transport:
    from flashq.store.mux import Multiplexer

    return Multiplexer(
        client.address,
        channel=client.channel,
        on_push=client.waiting.on_push,
        on_connect=client.on_connect,
        on_tick=client.waiting.on_tick,
        on_lost=client.waiting.on_lost,
        tick_s=CHECK_S,
        durability=client.settings.durability,
    )


_current: Client | None = None
_current_lock = threading.Lock()


def current_client() -> Client:
    """This process's client, made on first use from the settings; a forked child gets one of its own."""
    global _current
    if _current is None or _current.pid != os.getpid():
        with _current_lock:
            if _current is None or _current.pid != os.getpid():
                _current = Client(Settings.load())
    return _current


def use_client(client: Client | None) -> Client | None:
    """Put another client in place of this process's (tests do); returns the one it replaces."""
    global _current
    with _current_lock:
        before, _current = _current, client
    return before


@atexit.register
def _close_current() -> None:
    client = use_client(None)
    if client is not None:
        client.close()
