"""How a call becomes a job: registered, pickled and signed in the caller's thread, then sent with others.

Knows nothing of how jobs end: see `waiting`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq import class_identity, codec, errors, notices
from flashq.by_name import CurrentOnes, check_item, check_python, read_current
from flashq.ending import conflict, full, spent
from flashq.job import Call, EndpointJob
from flashq.model.envelope import CALL_LIFETIME_MS, Header
from flashq.model.idempotency import stands_for
from flashq.model.job_id import RANDOM_BYTES, new_job_id
from flashq.model.keyring import Direction
from flashq.model.retry import AT_MOST_ONCE
from flashq.registration import PROGRAM, Draft, Registration, callables_used, draft, prepare
from flashq.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.client import Client
    from flashq.endpoint_function import EndpointFunction
    from flashq.model.spec import EndpointSpec
    from flashq.model.terms import Terms
    from flashq.store.command import Command
    from flashq.store.records import Registered, Submitted

log = logging.getLogger("flashq")
_OVERHEAD = 1024  # bytes that a call takes in this process beside its arguments, about
_Prepared = tuple[tuple[object, ...], Registration]  # what it was made of, and the registration
_REGISTRATIONS = 5  # how often a call is sent again because its endpoint was not on record


class Submission:
    """The calls of this process on their way to the broker. Safe to use from any thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prepared: weakref.WeakKeyDictionary[Any, dict[str, _Prepared]] = weakref.WeakKeyDictionary()
        self._registered: dict[tuple[str, str], Registration] = {}
        self._lock = threading.Lock()
        self.room = Room()
        self.current = CurrentOnes(lambda name: read_current(client.broker, client.keyring, name))

    def submit(
        self,
        function: EndpointFunction[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        blocking: bool,
    ) -> EndpointJob[Any]:
        """See `Client.submit`."""
        made = self._make(function, args, kwargs)
        if not self.room.try_take(made.size):
            if not blocking and _in_event_loop():
                raise errors.SubmitBacklog(
                    f"this process has so many calls on their way to the broker that {function.name!r} has to wait, "
                    "which would hold up the event loop: await f.aspawn(…), or calls made before"
                )
            self.room.take(made.size)
        return self._dispatch(made)

    async def asubmit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """The same for coroutines, which await room."""
        made = self._make(function, args, kwargs)
        await self.room.atake(made.size)
        return self._dispatch(made)

    def _make(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> _Made:
        if function.deployed:
            return self._make_by_name(function, args, kwargs)
        if function.spec.batch is not None:
            check_item(function.name, args, kwargs)
        registration = self.registration(function)
        limit = self._client.settings.payload_limit
        payload = (
            codec.dump_arguments(args, kwargs, limit, registration.by_value, class_identity.settle)
            if function.encoding == "pickle"
            else codec.dump_json_arguments(args, kwargs, limit)
        )
        terms = function.terms
        same = _stands_for(function, args, kwargs) if terms.key else ("", "")
        job_id = new_job_id(registration.endpoint, self._client.now_ms(), os.urandom(RANDOM_BYTES))
        head = Header(
            direction=Direction.CALL,
            endpoint=registration.endpoint,
            job=job_id,
            revision=registration.revision,
            target=function.target,
            encoding=function.encoding,
            env_tag=registration.env_tag,
        )
        command, digest = self._command(head, payload, terms, same)
        call = Call(job_id, registration.endpoint, digest, keep_s=terms.keep_s)
        return _Made(call, registration, command, len(payload) + _OVERHEAD)

    def _make_by_name(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> _Made:
        """A call of what something else registered: of the revision that is current."""
        current = self.current.of(function.name)
        current.kind(function.target)
        if current.gathers:
            check_item(function.name, args, kwargs)
        limit = self._client.settings.payload_limit
        if function.encoding == "pickle":
            check_python(current)
            payload = codec.dump_arguments(args, kwargs, limit, settle=class_identity.settle)
        else:
            payload = codec.dump_json_arguments(args, kwargs, limit)
        terms = function.terms
        same = stands_for(function.encoding, args, kwargs, function.target) if terms.key else ("", "")
        job_id = new_job_id(function.name, self._client.now_ms(), os.urandom(RANDOM_BYTES))
        head = Header(
            direction=Direction.CALL,
            endpoint=function.name,
            job=job_id,
            revision=current.revision,
            target=function.target,
            encoding=function.encoding,
            env_tag=current.env_tag,
        )
        command, digest = self._command(head, payload, terms, same)
        call = Call(job_id, function.name, digest, keep_s=terms.keep_s)
        return _Made(call, None, command, len(payload) + _OVERHEAD)

    def relay(self, head: Header, payload: bytes, terms: Terms) -> EndpointJob[Any]:
        """Submit a call that somebody else pickled: of `head`'s endpoint, revision, target, parent and depth.

        Its endpoint has been registered by whoever submitted what it was called from.
        """
        made = self._relayed(head, payload, terms, ("", ""))
        self.room.take(made.size)
        return self._dispatch(made)

    async def arelay(
        self, head: Header, payload: bytes, terms: Terms, same: tuple[str, str]
    ) -> EndpointJob[Any]:
        """The same for coroutines, of what may come a second time: `same` is what its idempotency key stands for."""
        made = self._relayed(head, payload, terms, same)
        await self.room.atake(made.size)
        return self._dispatch(made)

    def _relayed(self, head: Header, payload: bytes, terms: Terms, same: tuple[str, str]) -> _Made:
        job_id = new_job_id(head.endpoint, self._client.now_ms(), os.urandom(RANDOM_BYTES))
        command, digest = self._command(replace(head, job=job_id), payload, terms, same)
        call = Call(job_id, head.endpoint, digest, keep_s=terms.keep_s)
        return _Made(call, None, command, len(payload) + _OVERHEAD)

    def _dispatch(self, made: _Made) -> EndpointJob[Any]:
        self._client.waiting.add(made.call)
        self._send(made, tries=_REGISTRATIONS)
        return EndpointJob(self._client, made.call)

    # -- endpoints -----------------------------------------------------------------------------------
    def registration(self, function: EndpointFunction[Any, Any]) -> Registration:
        """The endpoint's registration: made once, and anew where that is not what it was.

        A function it uses was redefined (in a notebook), its parameters are others, or another key signs.
        """
        is_of = self._is_of(function.code, function.spec)
        found = self._known(function)
        if found is None or found[0] != is_of:
            with self._lock:
                found = self._known(function)
                if found is None or found[0] != is_of:
                    self._prepare(function)
                    found = self._prepared[function.code][function.name]
        return found[1]

    def _known(self, function: EndpointFunction[Any, Any]) -> _Prepared | None:
        """By code, and by name: several endpoints may be made of one function."""
        return self._prepared.get(function.code, {}).get(function.name)

    def _is_of(self, code: Callable[..., Any], spec: EndpointSpec) -> tuple[object, ...]:
        return (spec, *callables_used(code), self._client.keyring.ids[0])

    def _prepare(self, function: EndpointFunction[Any, Any]) -> None:
        """Make the registration of an endpoint, and of all that its jobs' calls may lead to."""
        drafts = _drafts(function)
        reached = {name: _reached(name, drafts) for name in drafts}
        digests = {name: each.digest(reached[name].values()) for name, each in drafts.items()}
        limit = self._client.settings.payload_limit
        for name, each in drafts.items():
            self._warn_without_gpu(each.spec)
            calls = {called.name: digests[called.name] for called in each.calls}
            calls |= dict.fromkeys(each.by_name, "")
            made = prepare(each, self._client.keyring, limit, digests[name], calls)
            by_name = self._prepared.setdefault(each.function, {})
            by_name[name] = (self._is_of(each.function, each.spec), made)

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
        for called in registration.calls:
            if (known_call := self._known(called)) is not None:
                self._ensure_registered(known_call[1])
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
        self, head: Header, payload: bytes, terms: Terms, same: tuple[str, str]
    ) -> tuple[Command[Submitted], str]:
        """`head`: what is signed, but for the terms and the times."""
        client = self._client
        now = client.now_ms()
        header = replace(
            head,
            python=codec.PYTHON,
            cloudpickle=codec.cloudpickle_version(),
            delivery=terms.delivery,
            priority=terms.priority,
            timeout_ms=terms.timeout_ms,
            ttl_ms=terms.ttl_ms,
            created_ms=now,
            expires_ms=now + CALL_LIFETIME_MS + terms.ttl_ms + terms.delay_ms,
            retry=terms.retry,
            keep_s=terms.keep_s,
        )
        raw, digest = codec.seal_call(header, payload, client.keyring)
        command = client.transitions.submit(
            head.endpoint,
            head.job,
            revision=head.revision,
            call=raw,
            channel=client.channel,
            description=f"{head.endpoint}({len(payload)} bytes)",
            priority=terms.priority,
            delay_ms=terms.delay_ms,
            ttl_ms=terms.ttl_ms,
            own_ttl=terms.own_ttl,
            most_waiting=terms.max_queued,
            max_deliveries=terms.max_deliveries,
            at_most_once=terms.delivery == AT_MOST_ONCE,
            idempotency_key=terms.key,
            stands_for=same,
            parent=head.parent,
        )
        return command, digest

    def _send(self, made: _Made, tries: int) -> None:
        if made.registration is not None:
            self._ensure_registered(made.registration)

        def acknowledged(answer: Submitted | None, error: Exception | None) -> None:
            if answer is not None:
                self._client.hear_clock(answer.now_ms)
                if answer.verdict == "unregistered" and tries > 0 and made.registration is not None:
                    self._registered.pop((made.registration.endpoint, made.registration.revision), None)
                    self._send(made, tries - 1)
                    return
            self.room.give_back(made.size)
            if answer is None:
                self._client.waiting.reject(made.call, error or errors.BrokerError("no answer"))
            elif answer.verdict == "unregistered" and made.registration is None:
                self.current.forget(made.call.endpoint)
                gone = f"endpoint {made.call.endpoint} is not on record any more: it was undeployed"
                self._client.waiting.reject(made.call, errors.EndpointNotFound(gone))
            else:
                self._accept(made.call, answer)

        self._client.send(made.command, acknowledged)

    def _accept(self, call: Call, answer: Submitted) -> None:
        waiting = self._client.waiting
        call.durability = self._client.durability
        if not answer.current:
            self.current.forget(call.endpoint)
        match answer.verdict:
            case "ok":
                call.cold = answer.cold
                ours = sum(endpoint == call.endpoint for endpoint, _ in self._registered)
                # Two are of this program: a class with other arguments; none is a call by name.
                if not answer.current and ours == 1:
                    self._client.told.once(
                        f"other:{call.endpoint}",
                        f"endpoint {call.endpoint!r} was registered anew by another program; "
                        "this program's calls go on with its own code",
                    )
            case "dup":
                waiting.watch([call.id])
            case "hit":
                waiting.add_to(answer.detail, call)
            case "conflict":
                waiting.reject(call, conflict(answer.detail))
            case "spent":
                call.id = answer.detail
                waiting.reject(call, spent(answer.detail))
            case "full":
                waiting.reject(call, full(call.endpoint, answer.detail))
            case _:
                waiting.reject(call, errors.BrokerError(f"endpoint {call.endpoint} could not be registered"))
        call.acknowledged.set(None)


def _drafts(function: EndpointFunction[Any, Any]) -> dict[str, Draft]:
    """An endpoint, and all that its jobs' calls may lead to; by name. Raises SerializationError."""
    drafts: dict[str, Draft] = {}
    pending = [function]
    while pending:
        called = pending.pop()
        known = drafts.get(called.name)
        if known is None:
            drafts[called.name] = draft(called.spec, called.code)
            pending += drafts[called.name].calls
        elif known.function is not called.code:
            raise errors.SerializationError(
                f"endpoint {function.name} may call two things named {called.name!r}: handles of one class with"
                " other arguments cannot be called from inside jobs; give each a name, as Endpoint(name=…)"
            )
        if not pending:  # a handle that is there stands for its class; of other classes jobs may make one
            others = (made for each in drafts.values() for made in each.defaults if made.name not in drafts)
            pending += [made for made in [next(others, None)] if made is not None]
    for name, each in drafts.items():
        made = tuple(one for one in each.defaults if drafts[one.name].function is one.code)
        drafts[name] = replace(each, calls=(*each.calls, *made))
    return drafts


def _reached(name: str, drafts: Mapping[str, Draft]) -> dict[str, Draft]:
    """What the calls of an endpoint's jobs may lead to: itself only where they lead back."""
    found: dict[str, Draft] = {}
    pending = [*drafts[name].calls]
    while pending:
        called = pending.pop().name
        if called not in found:
            found[called] = drafts[called]
            pending += drafts[called].calls
    return found


class _Made(NamedTuple):
    """A call, ready to be sent."""

    call: Call
    registration: Registration | None  # None: it is somebody else's to register
    command: Command[Submitted]
    size: int


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _stands_for(
    function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str]:
    """What a key stands for: the same whether an argument was given by its place or by its name."""
    with contextlib.suppress(TypeError, ValueError):  # the worker will say what is wrong with it
        bound = inspect.signature(function.__wrapped__).bind(*args, **kwargs)
        args, kwargs = bound.args, bound.kwargs
    return stands_for("pickle", args, kwargs, function.target)
