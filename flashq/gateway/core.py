"""What every route of the gateway works with: the client of this process, the endpoints it calls, their signatures.

One `Client` submits for all requests and is told of every end by push, over one connection; what is asked seldom goes
over a few blocking connections in threads. Nothing is unpickled here: outcomes are JSON, or text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from flashq import codec, errors
from flashq.by_name import FRESH_S, Current, read_current
from flashq.ending import verified
from flashq.gateway.checked_input import Arguments, InputRefused, Signature
from flashq.model.envelope import Header
from flashq.model.idempotency import stands_for
from flashq.model.keyring import Direction
from flashq.model.outcome import Failure
from flashq.model.parameters import UNHURRIED_PRIORITY
from flashq.model.terms import terms_of
from flashq.store import queries_gateway
from flashq.store.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.client import Client
    from flashq.job import Call, EndpointJob
    from flashq.model.outcome import Ending
    from flashq.model.spec import CallOptions
    from flashq.settings import Settings
    from flashq.store.queries_gateway import JobView

R = TypeVar("R")
_READERS = 8  # threads that ask the broker; each question is short
_CHECKERS = 2  # threads that compare large inputs with signatures, which takes Python a while
_LARGE = 32 * 1024  # bytes of a body
_PATIENCE_S = 2.0
_AWAY_S = 0.5
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is called, as it is on record now."""

    current: Current
    signatures: dict[str, Signature]

    def target(self, wanted: str = "") -> str:
        """Which method is called; of a class with one method, that. Raises UnsupportedCall."""
        if not wanted and len(self.current.targets) == 1:
            return next(iter(self.current.targets))
        self.current.kind(wanted)
        return wanted

    def signature(self, target: str) -> Signature:
        return self.signatures.get(target) or Signature(None)


@dataclass(frozen=True, slots=True)
class Value:
    """What a job ended with."""

    output: Any = None
    error: str = ""
    foreign: bool = False
    """Its value is a Python object, which JSON does not say: it was called from Python."""


@dataclass
class Core:
    """One of it serves all requests of a process."""

    client: Client
    settings: Settings
    on_job: Callable[[EndpointJob[Any]], None] | None = None
    _known: dict[str, tuple[float, Endpoint]] = field(default_factory=dict)
    _broker: Broker | None = None
    _followed: WeakValueDictionary[str, Call] = field(default_factory=WeakValueDictionary)
    _away: tuple[float, str] | None = None  # until when nobody is asked, and why

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(_READERS, "flashq-gateway")
        self._checkers = ThreadPoolExecutor(_CHECKERS, "flashq-check")

    @property
    def broker(self) -> Broker:
        """A blocking connection; use it in a thread (see `ask`)."""
        if self._broker is None:
            self._broker = Broker(
                self.client.address(), prefix=self.settings.rq_prefix, patience_s=_PATIENCE_S
            )
        return self._broker

    async def ask(self, question: Callable[..., R], *args: Any) -> R:
        """`question(broker, *args)` in a thread. Right after one that had no answer, all are told so at once."""
        if self._away is not None and time.monotonic() < self._away[0]:
            raise errors.BrokerUnreachable(self._away[1])
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: question(self.broker, *args))
        except errors.BrokerUnreachable as error:
            self._away = time.monotonic() + _AWAY_S, str(error)
            raise

    async def job(self, job: str) -> JobView:
        """A job of which the broker has just said something: where it does not answer yet, it is asked again.

        Raises: JobNotFound, ResultExpired, BrokerError.
        """
        for _ in range(_TRIES - 1):
            with contextlib.suppress(errors.BrokerUnreachable):
                return await self.ask(queries_gateway.job, job)
            await asyncio.sleep(_AWAY_S)
        return await self.ask(queries_gateway.job, job)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._checkers.shutdown(wait=False, cancel_futures=True)
        if self._broker is not None:
            self._broker.close()

    # -- endpoints -----------------------------------------------------------------------------------
    async def endpoint(self, name: str) -> Endpoint:
        """The endpoint as it was within the last second. Raises: EndpointNotFound, EnvelopeError, BrokerError."""
        known = self._known.get(name)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        current = await self.ask(read_current, self.client.keyring, name)
        if known is not None and known[1].current.revision == current.revision:
            found = Endpoint(current, known[1].signatures)
        else:
            found = Endpoint(current, _signatures(current.schemas))
        self._known[name] = (time.monotonic() + FRESH_S, found)
        return found

    async def arguments(self, signature: Signature, given: Any, size: int, where: str = "input") -> Arguments:
        """What `given`, out of a body of this size, has a function called with; other requests go on meanwhile.

        Raises InputRefused.
        """
        if size <= _LARGE:
            return signature.arguments(given, where)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._checkers, signature.arguments, given, where)

    def forget(self) -> None:
        """What is registered has changed: the next call of each endpoint reads it. From any thread."""
        self._known = {}

    # -- calls ---------------------------------------------------------------------------------------
    async def submit(
        self,
        endpoint: Endpoint,
        target: str,
        arguments: Arguments,
        options: CallOptions,
        *,
        unhurried: bool = False,
    ) -> EndpointJob[Any]:
        """Submit a call in JSON; it has been accepted when this returns. `unhurried`: no worker is started for it.

        Raises: InputRefused, PayloadTooLarge, QueueFull, IdempotencyConflict, ResultExpired, EndpointNotFound,
        BrokerError.
        """
        current = endpoint.current
        raw = _payload(arguments)
        codec.check_size(len(raw), self.settings.payload_limit, "the input")
        terms = terms_of(current.spec, options)
        if unhurried:
            terms = replace(terms, priority=UNHURRIED_PRIORITY)
        same = stands_for("json", arguments.args, arguments.kwargs, target) if terms.key else ("", "")
        head = Header(
            direction=Direction.CALL,
            endpoint=current.endpoint,
            revision=current.revision,
            target=target,
            env_tag=current.env_tag,
            encoding="json",
        )
        job = await self.client.submission.arelay(head, raw, terms, same)
        await self.client.aacknowledged(job)
        if self.on_job is not None:
            self.on_job(job)
        return job

    def followed(self, job: str) -> Call:
        """A job that requests follow which did not submit it: the same for all of them, however many come and go."""
        call = self._followed.get(job)
        if call is None or call.ended.done:  # it may have been begun anew since
            call = self._followed[job] = self.client.job(job)._call  # noqa: SLF001 — client and job are one part
        return call

    # -- outcomes ------------------------------------------------------------------------------------
    def value(self, job: str, endpoint: str, ending: Ending, call_digest: str = "") -> Value:
        """What a job ended with, verified. Raises: ResultExpired, EnvelopeError."""
        found = verified(ending, self.client.keyring, endpoint=endpoint, job=job, call_digest=call_digest)
        if isinstance(found, Failure):
            return Value(error=f"{found.type}: {found.message}" if found.type else found.message)
        if found.header.encoding != "json":
            return Value(foreign=True)
        return Value(output=codec.load_json(found))


def _payload(arguments: Arguments) -> bytes:
    call = {"args": arguments.args, "kwargs": arguments.kwargs}
    try:
        text = json.dumps(call, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except ValueError as error:  # a number that is too large, half a character
        raise InputRefused("input", f"cannot be sent on: {error}") from None


def _signatures(schemas: str) -> dict[str, Signature]:
    try:
        found = json.loads(schemas or "{}")
    except ValueError as error:
        raise errors.MalformedEnvelope(f"the record's schemas cannot be read: {error}") from None
    return {target: Signature(schema) for target, schema in found.items()}
