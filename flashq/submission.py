"""How a call becomes a job: registered, pickled and signed in the caller's thread, then sent with others.

Knows nothing of how jobs end: see `waiting`.
"""

from __future__ import annotations

import functools
import logging
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from flashq import codec, errors, notices
from flashq.job import Call, EndpointJob
from flashq.model.envelope import CALL_LIFETIME_MS, Header
from flashq.model.keyring import Direction
from flashq.registration import PROGRAM, Registration, callables_used, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.client import Client
    from flashq.endpoint import EndpointFunction
    from flashq.model.spec import CallOptions, EndpointSpec
    from flashq.store.command import Command
    from flashq.store.records import Registered, Submitted

log = logging.getLogger("flashq")
_REGISTRATIONS = 5  # how often a call is sent again because its endpoint was not on record


class Submission:
    """The calls of this process on their way to the broker. Safe to use from any thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prepared: weakref.WeakKeyDictionary[Any, tuple[tuple[int, ...], Registration]] = (
            weakref.WeakKeyDictionary()
        )
        self._registered: dict[tuple[str, str], Registration] = {}
        self._lock = threading.Lock()

    def submit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """See `Client.submit`."""
        registration = self.registration(function)
        payload = codec.dump_arguments(args, kwargs, self._client.settings.payload_limit)
        job_id = f"{registration.endpoint}-{uuid.uuid4()}"
        command, digest = self._command(job_id, registration, payload, function.options)
        call = Call(job_id, registration.endpoint, digest, keep_s=registration.spec.result_ttl)
        self._client.waiting.add(call)
        self._send(call, registration, command, tries=_REGISTRATIONS)
        return EndpointJob(self._client, call)

    # -- endpoints -----------------------------------------------------------------------------------
    def registration(self, function: EndpointFunction[Any, Any]) -> Registration:
        """The endpoint's registration: made once, and anew where a function it uses was redefined (in a notebook)."""
        target = function.__wrapped__
        used = callables_used(target)
        found = self._prepared.get(target)
        if found is None or found[0] != used:
            with self._lock:
                found = self._prepared.get(target)
                if found is None or found[0] != used:
                    self._warn_without_gpu(function.spec)
                    limit = self._client.settings.payload_limit
                    made = prepare(function.spec, target, self._client.keyring, limit)
                    found = self._prepared[target] = (used, made)
        return found[1]

    def _warn_without_gpu(self, spec: EndpointSpec) -> None:
        private = self._client.settings.redis_url is None
        if private and spec.gpu is not None and not notices.machine_has_gpu_driver():
            self._client.told.once(
                "no-gpu", "this machine has no GPU: gpu endpoints run on its CPU here, with CUDA hidden"
            )

    def forget_registered(self) -> None:
        """The broker has lost its data: every endpoint is registered anew."""
        self._registered.clear()

    def _ensure_registered(self, registration: Registration) -> None:
        known = (registration.endpoint, registration.revision)
        if self._registered.get(known) is registration:
            return
        self._registered[known] = registration
        told = functools.partial(self._on_registered, registration.endpoint)
        self._client.send(registration.command(self._client.transitions), told)

    def _on_registered(self, endpoint: str, answer: Registered | None, error: Exception | None) -> None:
        if answer is None:
            log.debug("registration failed: %s", error)  # the submit behind it tells its caller
            return
        self._client.waiting.registered_in(answer.epoch)
        if answer.verdict in ("code", "replaced") and answer.previous_program not in ("", PROGRAM):
            self._client.told.once(
                f"taken:{endpoint}",
                f"endpoint {endpoint!r} had other code or settings, of another program; this program's are current now",
            )

    # -- calls ---------------------------------------------------------------------------------------
    def _command(
        self, job_id: str, registration: Registration, payload: bytes, options: CallOptions | None
    ) -> tuple[Command[Submitted], str]:
        client, spec = self._client, registration.spec
        terms = _Terms(spec, options)
        now = client.now_ms()
        header = Header(
            direction=Direction.CALL,
            endpoint=registration.endpoint,
            job=job_id,
            revision=registration.revision,
            encoding="pickle",
            python=codec.PYTHON,
            cloudpickle=codec.cloudpickle_version(),
            priority=terms.priority,
            timeout_ms=terms.timeout_ms,
            ttl_ms=terms.ttl_ms,
            created_ms=now,
            expires_ms=now + CALL_LIFETIME_MS + terms.ttl_ms + terms.delay_ms,
            retry=registration.retry,
            keep_s=spec.result_ttl,
            env_tag=registration.env_tag,
        )
        raw, digest = codec.seal_call(header, payload, client.keyring)
        command = client.transitions.submit(
            registration.endpoint,
            job_id,
            revision=registration.revision,
            call=raw,
            channel=client.channel,
            description=f"{registration.endpoint}({len(payload)} bytes)",
            priority=terms.priority,
            delay_ms=terms.delay_ms,
            ttl_ms=terms.ttl_ms,
            own_ttl=terms.own_ttl,
            idempotency_key=terms.key,
            stands_for=registration.endpoint,
        )
        return command, digest

    def _send(self, call: Call, registration: Registration, command: Command[Submitted], tries: int) -> None:
        self._ensure_registered(registration)

        def acknowledged(answer: Submitted | None, error: Exception | None) -> None:
            if answer is None:
                self._client.waiting.reject(call, error or errors.BrokerError("no answer"))
                return
            self._client.hear_clock(answer.now_ms)
            if answer.verdict == "unregistered" and tries > 0:
                self._registered.pop((registration.endpoint, registration.revision), None)
                self._send(call, registration, command, tries - 1)
                return
            self._accept(call, answer)

        self._client.send(command, acknowledged)

    def _accept(self, call: Call, answer: Submitted) -> None:
        waiting = self._client.waiting
        call.durability = self._client.durability
        match answer.verdict:
            case "ok":
                call.cold = answer.detail == "1"
                if not answer.current:
                    self._client.told.once(
                        f"other:{call.endpoint}",
                        f"endpoint {call.endpoint!r} was registered anew by another program; "
                        "this program's calls go on with its own code",
                    )
            case "dup":
                waiting.watch([call.id])
            case "hit":
                waiting.add_first(call, answer.detail)
            case "conflict":
                message = f"the key was used for job {answer.detail}, a call of something else"
                waiting.reject(call, errors.IdempotencyConflict(message))
            case "full":
                waiting.reject(call, errors.QueueFull(f"{call.endpoint}: {answer.detail} jobs wait already"))
            case _:
                waiting.reject(call, errors.BrokerError(f"endpoint {call.endpoint} could not be registered"))
        call.acknowledged.set(None)


class _Terms:
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
