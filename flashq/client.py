"""One client per process: registers endpoints, submits calls, and completes the jobs that wait for them.

Everything goes through one I/O thread (`store.mux`): pickling and signing happen in the caller's thread, the
submit is queued and sent with others, and outcomes are pushed back on the client's own channel. What a push
missed is asked for on reconnecting and every few seconds.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from flashq import codec, errors, notices
from flashq.ending import verified_value
from flashq.job import EndpointJob, Reply, Timing
from flashq.model.envelope import CALL_LIFETIME_MS, Header
from flashq.model.keyring import Direction, Keyring
from flashq.model.lifecycle import STATUS, TERMINAL, JobState, Status
from flashq.model.outcome import Ending
from flashq.registration import PROGRAM, Registration, callables_used, prepare
from flashq.settings import Settings
from flashq.store.keys import Keys
from flashq.store.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq.embedded import Membership
    from flashq.endpoint import EndpointFunction
    from flashq.model.spec import CallOptions, EndpointSpec
    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.store.records import Registered, Submitted, Watched

log = logging.getLogger("flashq")
_CHECK_S = 5.0
_CLOSE_S = 5.0
_WATCH_AT_ONCE = 100


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
        keyring: Keyring | None = None,
    ) -> None:
        self.settings = settings
        self.id = f"{PROGRAM}-{uuid.uuid4().hex[:8]}"
        self.pid = os.getpid()
        self.keys = Keys(settings.rq_prefix)
        self.transitions = Transitions(self.keys)
        self.channel = self.keys.of("push", self.id)
        self._keyring = keyring
        self._membership: Membership | None = None
        self._broker: Broker | None = None
        self._registrations: weakref.WeakKeyDictionary[Any, tuple[tuple[int, ...], Registration]] = (
            weakref.WeakKeyDictionary()
        )
        self._registered: dict[tuple[str, str], Registration] = {}
        self._jobs: dict[str, EndpointJob[Any]] = {}
        self._told: set[str] = set()
        self._epoch = ""
        self._lost_before = 0.0  # jobs submitted before this moment may be gone with the broker's data
        self._clock_offset_ms = 0.0
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
    def keyring(self) -> Keyring:
        """The signing keys: as configured, or the private broker's own."""
        with self._lock:
            if self._keyring is None:
                if self.settings.redis_url is None:
                    from flashq import embedded

                    secrets = embedded.secrets(self.settings)
                else:
                    secrets = (self.settings.require_secret_key(),)
                self._keyring = Keyring(secrets, self.settings.namespace)
            return self._keyring

    @property
    def broker(self) -> Broker:
        """A blocking connection, for what is asked seldom."""
        with self._lock:
            if self._broker is None:
                from flashq.store.broker import Broker

                self._broker = Broker(self.address(), prefix=self.settings.rq_prefix)
            return self._broker

    def now_ms(self) -> int:
        """The broker's clock, as far as it is known here."""
        return int(time.time() * 1000 + self._clock_offset_ms)  # noqa: TID251 — only offset by the broker's

    # -- submitting ----------------------------------------------------------------------------------
    def submit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """Pickle, sign and send a call; returns its EndpointJob without waiting for the broker.

        Raises: SerializationError, PayloadTooLarge, SettingsError.
        """
        registration = self.registration(function)
        payload = codec.dump_arguments(args, kwargs, self.settings.payload_limit)
        job_id = f"{registration.endpoint}-{uuid.uuid4()}"
        command, digest = self._submit_command(job_id, registration, payload, function.options)
        job: EndpointJob[Any] = EndpointJob(self, job_id, registration.endpoint, digest)
        job._keep_s = registration.spec.result_ttl  # noqa: SLF001
        self._jobs[job_id] = job
        self._send(job, registration, command, tries=5)
        return job

    def refused(self, function: EndpointFunction[Any, Any], error: errors.SubmitError) -> EndpointJob[Any]:
        """A job that was never sent, ended by the error that kept it from being."""
        job: EndpointJob[Any] = EndpointJob(self, "", function.name)
        self._reject(job, error)
        return job

    def registration(self, function: EndpointFunction[Any, Any]) -> Registration:
        """The endpoint's registration: made once, and anew where a function it uses was redefined (in a notebook)."""
        target = function.__wrapped__
        used = callables_used(target)
        found = self._registrations.get(target)
        if found is None or found[0] != used:
            with self._lock:
                found = self._registrations.get(target)
                if found is None or found[0] != used:
                    self._warn_without_gpu(function.spec)
                    made = prepare(function.spec, target, self.keyring, self.settings.payload_limit)
                    found = self._registrations[target] = (used, made)
        return found[1]

    def _warn_without_gpu(self, spec: EndpointSpec) -> None:
        if self.settings.redis_url is None and spec.gpu is not None and not notices.machine_has_gpu_driver():
            self._tell(
                "no-gpu", "this machine has no GPU: gpu endpoints run on its CPU here, with CUDA hidden"
            )

    def _submit_command(
        self, job_id: str, registration: Registration, payload: bytes, options: CallOptions | None
    ) -> tuple[Command[Submitted], str]:
        spec = registration.spec
        call = _CallTerms(spec, options)
        now = self.now_ms()
        header = Header(
            direction=Direction.CALL,
            endpoint=registration.endpoint,
            job=job_id,
            revision=registration.revision,
            encoding="pickle",
            python=codec.PYTHON,
            priority=call.priority,
            timeout_ms=call.timeout_ms,
            ttl_ms=call.ttl_ms,
            created_ms=now,
            expires_ms=now + CALL_LIFETIME_MS + call.ttl_ms + call.delay_ms,
            retry=registration.retry,
            keep_s=spec.result_ttl,
            env_tag=registration.env_tag,
        )
        raw, digest = codec.seal_call(header, payload, self.keyring)
        command = self.transitions.submit(
            registration.endpoint,
            job_id,
            revision=registration.revision,
            call=raw,
            channel=self.channel,
            description=f"{registration.endpoint}({len(payload)} bytes)",
            priority=call.priority,
            delay_ms=call.delay_ms,
            ttl_ms=call.ttl_ms,
            own_ttl=call.own_ttl,
            idempotency_key=call.key,
            stands_for=registration.endpoint,
        )
        return command, digest

    def _send(
        self, job: EndpointJob[Any], registration: Registration, command: Command[Submitted], tries: int
    ) -> None:
        self._ensure_registered(registration)

        def acknowledged(answer: Submitted | None, error: Exception | None) -> None:
            if answer is None:
                self._reject(job, error or errors.BrokerError("no answer"))
                return
            self._clock_offset_ms = answer.now_ms - time.time() * 1000  # noqa: TID251
            if answer.verdict == "unregistered" and tries > 0:
                self._registered.pop((registration.endpoint, registration.revision), None)
                self._send(job, registration, command, tries - 1)
                return
            self._accept(job, answer)

        self._transport.send(command, acknowledged)

    def _ensure_registered(self, registration: Registration) -> None:
        known = (registration.endpoint, registration.revision)
        if self._registered.get(known) is registration:
            return
        self._registered[known] = registration
        self._register(registration)

    def _register(self, registration: Registration) -> None:
        told = functools.partial(self._on_registered, registration.endpoint)
        self._transport.send(registration.command(self.transitions), told)

    def _on_registered(self, endpoint: str, answer: Registered | None, error: Exception | None) -> None:
        if answer is None:
            log.debug("registration failed: %s", error)  # the submit behind it tells its caller
            return
        if not self._epoch:
            self._epoch = answer.epoch
        if answer.verdict in ("code", "replaced") and answer.previous_program not in ("", PROGRAM):
            self._tell(
                f"taken:{endpoint}",
                f"endpoint {endpoint!r} had other code or settings, of another program; this program's are current now",
            )

    def _tell(self, what: str, text: str) -> None:
        """Warn the user of something, once in this program."""
        if what not in self._told:
            self._told.add(what)
            log.warning("flashq: %s", text)

    def _accept(self, job: EndpointJob[Any], answer: Submitted) -> None:
        job_id = job.id
        match answer.verdict:
            case "ok":
                job._cold = answer.detail == "1"  # noqa: SLF001 — client and job are one part
                if not answer.current:
                    self._tell(
                        f"other:{job.endpoint}",
                        f"endpoint {job.endpoint!r} was registered anew by another program; "
                        "this program's calls go on with its own code",
                    )
            case "dup":
                self._watch([job_id])
            case "hit":
                self._jobs.pop(job_id, None)
                job.id = answer.detail
                job._call_digest = ""  # noqa: SLF001 — it answers the first call made with this key
                first = self._jobs.setdefault(job.id, job)
                if first is job:
                    self._watch([job.id])
                else:
                    first._ended.on_done(lambda: job._ended.copy(first._ended))  # noqa: SLF001
            case "conflict":
                message = f"the key was used for job {answer.detail}, a call of something else"
                self._reject(job, errors.IdempotencyConflict(message))
            case "full":
                self._reject(job, errors.QueueFull(f"{job.endpoint}: {answer.detail} jobs wait already"))
            case _:
                self._reject(job, errors.BrokerError(f"endpoint {job.endpoint} could not be registered"))
        job._acknowledged.set(None)  # noqa: SLF001

    def _reject(self, job: EndpointJob[Any], error: Exception) -> None:
        self._jobs.pop(job.id, None)
        job._acknowledged.fail(error)  # noqa: SLF001
        job._ended.fail(error)  # noqa: SLF001

    def acknowledged(self, job: EndpointJob[Any]) -> None:
        """Block until the broker has accepted a submit. Raises what it answered instead."""
        job._acknowledged.result(None)  # noqa: SLF001

    # -- completing ----------------------------------------------------------------------------------
    def on_push(self, message: bytes) -> None:
        """An outcome was pushed: id, state, fence, reason, whether the outcome is here, outcome."""
        try:
            raw_id, state, fence, reason, inline, outcome = message.split(b"\n", 5)
            ending = Ending(JobState(state.decode()), int(fence), reason.decode(), "", outcome)
            job = self._jobs.get(raw_id.decode())
        except ValueError:  # anybody with access to the broker can publish anything
            log.warning("flashq: a message that is no outcome was passed over")
            return
        if job is None:
            return
        if inline != b"1" or (state != b"finished" and not outcome):
            self._watch([job.id])
            return
        self._end(job, ending)

    def _end(self, job: EndpointJob[Any], ending: Ending) -> None:
        self._jobs.pop(job.id, None)
        job._acknowledged.set(None)  # noqa: SLF001
        job._ended.set(ending)  # noqa: SLF001

    def _watch(self, job_ids: list[str]) -> None:
        def told(rows: list[Watched] | None, error: Exception | None) -> None:
            if rows is None:
                self._unwatched(job_ids, error)
                return
            for job_id, row in zip(job_ids, rows, strict=True):
                self._learn(job_id, row)

        self._transport.send(self.transitions.watch(job_ids, self.channel), told)

    def _unwatched(self, job_ids: list[str], error: Exception | None) -> None:
        """The broker has been unreachable for longer than our patience: say so to whoever waits."""
        for job_id in job_ids:
            job = self._jobs.pop(job_id, None)
            if job is not None:
                job._ended.fail(error or errors.BrokerError("no answer"))  # noqa: SLF001

    def _learn(self, job_id: str, row: Watched) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        if row.state is None:
            self._jobs.pop(job_id, None)
            job._ended.fail(self._missing(job))  # noqa: SLF001
        elif row.state in TERMINAL:
            self._end(job, Ending(row.state, row.fence, row.reason, row.text, row.outcome))

    def _missing(self, job: EndpointJob[Any]) -> Exception:
        if job._submitted_at < self._lost_before:  # noqa: SLF001
            return errors.BrokerStateLost(f"the broker came back without job {job.id}; submit it again")
        if job._keep_s and time.monotonic() > job._submitted_at + job._keep_s:  # noqa: SLF001
            message = (
                f"job {job.id} is kept no longer: its result was kept for {job._keep_s} s (or it was deleted)"  # noqa: SLF001
            )
            return errors.ResultExpired(message, job_id=job.id)
        return errors.JobNotFound(f"job {job.id} is not in the broker: it was deleted", job_id=job.id)

    def on_connect(self) -> None:
        """A connection was made (again): ask whether it is still the same data, and for what we wait for."""
        waiting = self._waiting()
        if self._epoch:
            self._transport.send(self.transitions.epoch(), self._on_epoch)
        self._watch_all(waiting)

    def _on_epoch(self, epoch: str | None, error: Exception | None) -> None:
        if error is None and epoch != self._epoch:
            self._lost_before = time.monotonic()
            self._epoch = epoch or ""
            self._registered.clear()

    def on_lost(self, error: Exception) -> None:
        """The broker has been away for longer than our patience: say so to whoever waits. The jobs may go on."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        for job in jobs:
            job._acknowledged.fail(error)  # noqa: SLF001
            job._ended.fail(error)  # noqa: SLF001

    def on_tick(self) -> None:
        """Every few seconds: what a push may have missed, and whether callers should be told why they wait."""
        waiting = self._waiting(longer_than_s=_CHECK_S)
        self._watch_all(waiting)
        if waiting:
            for endpoint in {self._jobs[j].endpoint for j in waiting if j in self._jobs} - self._told:
                notices.explain_wait(self, endpoint, self._told)

    def _waiting(self, longer_than_s: float = 0.0) -> list[str]:
        edge = time.monotonic() - longer_than_s
        jobs = list(self._jobs.items())
        return [i for i, j in jobs if j._acknowledged.done and j._submitted_at <= edge]  # noqa: SLF001

    def _watch_all(self, job_ids: list[str]) -> None:
        for start in range(0, len(job_ids), _WATCH_AT_ONCE):
            self._watch(job_ids[start : start + _WATCH_AT_ONCE])

    def decode(self, job: EndpointJob[Any], ending: Ending) -> Any:
        """The value of an ended job; or raises why there is none. Verifies before it unpickles."""
        opened = verified_value(
            ending,
            self.keyring,
            endpoint=job.endpoint,
            job=job.id,
            call_digest=job._call_digest,  # noqa: SLF001
        )
        return codec.load_value(opened)

    # -- asking about a job --------------------------------------------------------------------------
    def cancel(self, job: EndpointJob[Any]) -> Reply[str]:
        """See EndpointJob.cancel."""
        return self._ask(self.transitions.cancel(job.id), lambda verdict: verdict)

    def status(self, job: EndpointJob[Any]) -> Reply[Status]:
        """See EndpointJob.status."""

        def read(rows: list[Watched]) -> Status:
            if rows[0].state is None:
                raise self._missing(job)
            return STATUS[rows[0].state]

        return self._ask(self.transitions.watch([job.id]), read)

    def timing(self, job: EndpointJob[Any]) -> Reply[Timing]:
        """See EndpointJob.timing."""
        from flashq.store.queries import job_timing

        reply: Reply[Timing] = Reply()
        reply.set(Timing(**job_timing(self.broker, job.id)))
        return reply

    def logs(self, job: EndpointJob[Any], *, follow: bool) -> Iterator[str]:
        """See EndpointJob.logs."""
        from flashq.store.queries import job_logs

        return job_logs(self.broker, job.id, follow=follow)

    def _ask(self, command: Command[Any], read: Callable[[Any], Any]) -> Reply[Any]:
        reply: Reply[Any] = Reply()

        def answered(answer: Any, error: Exception | None) -> None:
            try:
                if error is not None:
                    raise error
                reply.set(read(answer))
            except Exception as problem:  # noqa: BLE001 — handed to whoever waits for the reply
                reply.fail(problem)

        self._transport.send(command, answered)
        return reply

    # -- ending --------------------------------------------------------------------------------------
    def close(self) -> None:
        """Send what is still to be sent, then let go of the broker. Jobs go on."""
        if os.getpid() != self.pid:
            return
        deadline = time.monotonic() + _CLOSE_S
        unsent = 0
        for job in list(self._jobs.values()):
            unsent += not job._acknowledged.wait(max(0.0, deadline - time.monotonic()))  # noqa: SLF001
        if unsent:
            log.warning("flashq: %d call(s) were not accepted by the broker before the program ended", unsent)
        unfinished = len(self._jobs) - unsent
        self._transport.close()
        if self._broker is not None:
            self._broker.close()
        if self._membership is not None:
            self._membership.leave(unfinished)


class _CallTerms:
    """The terms of one call: its options over its endpoint's defaults, in the wire's units."""

    __slots__ = ("delay_ms", "key", "own_ttl", "priority", "timeout_ms", "ttl_ms")

    def __init__(self, spec: EndpointSpec, options: CallOptions | None) -> None:
        self.priority, self.timeout_ms = spec.priority, spec.execution_timeout_ms
        self.ttl_ms, self.delay_ms, self.key = int(spec.ttl * 1000), 0, ""
        self.own_ttl = options is not None and (options.ttl_s is not None or bool(options.delay_s))
        if options is not None:
            self.priority = self.priority if options.priority is None else options.priority
            self.timeout_ms = self.timeout_ms if options.timeout_s is None else int(options.timeout_s * 1000)
            self.ttl_ms = self.ttl_ms if options.ttl_s is None else int(options.ttl_s * 1000)
            self.delay_ms = int((options.delay_s or 0) * 1000)
            self.key = options.key or ""


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
        on_push=client.on_push,
        on_connect=client.on_connect,
        on_tick=client.on_tick,
        on_lost=client.on_lost,
        tick_s=_CHECK_S,
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
