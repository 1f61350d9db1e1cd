"""The calls that jobs on this host make: judged, signed, submitted and waited for, on a thread of its own.

A worker may ask for what the signed revision of the calling job permits: the endpoints that its code refers to, each
in the revision that its caller's program had (decision 0029). The root key stays here; a value or exception goes back
as the bytes that a verified outcome held, and is unpickled by the job alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashq import codec
from flashq.client import Client
from flashq.errors import BrokerError, EndpointNotFound, FlashqError, QueueFull, UnsupportedCall
from flashq.model.envelope import Header, open_sealed
from flashq.model.keyring import Direction
from flashq.model.outcome import Failure
from flashq.model.parameters import NESTED_PRIORITY
from flashq.model.spec import CallOptions, EndpointSpec
from flashq.model.terms import terms_of
from flashq.settings import Settings
from flashq.store.command import text
from flashq_worker.executor import frames
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameError, FrameType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flashq.job import EndpointJob
    from flashq.model.envelope import RootKeys
    from flashq.model.terms import Terms
    from flashq.store.broker import Broker

log = logging.getLogger("flashq.host")
# What anything but what is expected raises where it is read, judged or signed: one worker's, and not all workers'.
_SENSELESS = (FrameError, LookupError, TypeError, ValueError, ArithmeticError)
MOST_DEPTH = 16
"""How many jobs may be above one: calls that call themselves without end are told so."""


class Line:
    """One worker's end here. `endpoint`: whose worker it is, once it is somebody's."""

    def __init__(self, ours: socket.socket, limit: int) -> None:
        self.ours = ours
        self.endpoint = ""
        self.decoder = FrameDecoder(limit + 2 * frames.MAX_META_BYTES)
        self.unsent: deque[memoryview] = deque()
        self.jobs: dict[
            int, tuple[EndpointJob[Any], bool]
        ] = {}  # by the worker's number, and whether detached


class HostCalls:
    """Serves the workers of one host. `connect` and `close` are called by its agent's thread."""

    def __init__(self, broker: Broker, keyring: RootKeys, home: Path, payload_limit: int) -> None:
        self._keyring = keyring
        self._settings = Settings(
            redis_url=broker.url,
            allow_plaintext=True,  # as the agent's own connection, which was judged
            home=home,
            namespace=keyring.namespace,
            payload_limit=payload_limit,
            rq_prefix=broker.keys.prefix,
        )
        self._client: Client | None = None
        self._permits: dict[tuple[str, str], dict[str, str]] = {}
        self._selector = selectors.DefaultSelector()
        self._todo: deque[Callable[[], None]] = deque()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._ending = False

    # -- the agent's thread --------------------------------------------------------------------------
    def connect(self) -> tuple[Line, socket.socket]:
        """A line for a worker that is to be started, and the end that it is to inherit. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        line = Line(ours, self._settings.payload_limit)
        self._soon(lambda: self._add(line))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flashq-calls", daemon=True)
            self._thread.start()
        return line, theirs

    def close(self) -> None:
        """Let go of everything. What was called goes on."""
        self._ending = True
        self._soon(lambda: None)
        if self._thread is not None:
            self._thread.join()
        if self._client is not None:
            self._client.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Line):
                key.data.ours.close()
        self._selector.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    # -- its own thread ------------------------------------------------------------------------------
    def _soon(self, action: Callable[[], None]) -> None:
        """Have something done by this thread; from any."""
        self._todo.append(action)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"\0")

    def _add(self, line: Line) -> None:
        self._selector.register(line.ours, selectors.EVENT_READ, line)

    def _run(self) -> None:
        while not self._ending:
            for key, events in self._selector.select():
                if key.fd == self._wake_r:
                    os.read(self._wake_r, 4096)
                    continue
                line: Line = key.data
                if events & selectors.EVENT_WRITE:
                    self._flush(line)
                if events & selectors.EVENT_READ:
                    self._read(line)
            while self._todo:
                self._todo.popleft()()

    def _read(self, line: Line) -> None:
        try:
            for frame in line.decoder.receive(line.ours):
                if type(frame.meta["call"]) is not int:
                    raise TypeError(f"a call's number is {frame.meta['call']!r:.50}")
                if frame.type is FrameType.DROP:
                    self._drop(line, frame.meta["call"], forget=frame.meta["forget"])
                else:
                    self._call(line, frame)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._hang_up(line)
        except _SENSELESS as error:
            log.error("a worker of endpoint %s says of calls what makes no sense: %r", line.endpoint, error)
            self._hang_up(line)

    def _hang_up(self, line: Line) -> None:
        """The worker is gone; what its jobs called, and were to wait for, is stopped."""
        self._selector.unregister(line.ours)
        line.ours.close()
        for number in list(line.jobs):
            self._drop(line, number, forget=True)

    def _drop(self, line: Line, number: int, *, forget: bool) -> None:
        job, detached = line.jobs.get(number, (None, True))
        if job is not None and not (forget and detached):
            job.cancel()
        if forget:
            line.jobs.pop(number, None)

    def _call(self, line: Line, frame: Frame) -> None:
        number = frame.meta["call"]
        try:
            head, terms = self._judged(line.endpoint, frame.meta)
            job = self._connected().submission.relay(head, frame.blob, terms)
        except FlashqError as error:
            self._say(line, number, refusal(error))
            return
        except _SENSELESS as error:
            why = f"a call that makes no sense: {type(error).__name__}: {error}"
            self._say(line, number, refusal(UnsupportedCall(why)))
            return
        line.jobs[number] = job, frame.meta["detached"]
        call = job._call  # noqa: SLF001 — a part of the SDK
        call.acknowledged.on_done(lambda: self._soon(lambda: self._on_acknowledged(line, number, job)))
        call.ended.on_done(lambda: self._soon(lambda: self._on_ended(line, number, job)))

    def _connected(self) -> Client:
        if self._client is None:
            self._client = Client(self._settings, keyring=self._keyring)
        return self._client

    # -- judging -------------------------------------------------------------------------------------
    def _judged(self, endpoint: str, said: Mapping[str, Any]) -> tuple[Header, Terms]:
        """What a call is signed as. Raises FlashqError where it is not to be signed, or cannot be."""
        callee, depth = said["endpoint"], said["depth"]
        revision = self._permitted(endpoint, said["revision"]).get(callee)
        if revision is None:
            raise UnsupportedCall(f"endpoint {endpoint} may not call {callee!r:.80}")
        revision = revision or self._current(callee)
        if not 0 < depth <= MOST_DEPTH:
            raise UnsupportedCall(
                f"{MOST_DEPTH} jobs above each other are the most: {callee} is called too deep"
            )
        terms = self._terms(callee, said["options"])
        head = Header(
            direction=Direction.CALL,
            endpoint=callee,
            revision=revision,
            target=said["target"],
            parent=said["parent"],
            depth=depth,
        )
        return head, terms

    def _current(self, callee: str) -> str:
        """The current revision of what is called by its name alone: something else deploys it."""
        broker = self._connected().broker
        found = broker.execute("HGET", broker.keys.of("endpoint", callee), "revision")
        if not found:
            raise EndpointNotFound(f"no endpoint {callee!r} is registered")
        return text(found)

    def _permitted(self, endpoint: str, digest: str) -> Mapping[str, str]:
        """The endpoints that jobs of a revision may call, and their revisions, by its signed record."""
        known = self._permits.get((endpoint, digest))
        if known is None:
            broker = self._connected().broker
            raw = broker.execute("GET", broker.keys.of("revision", endpoint, digest)) or b""
            opened = open_sealed(raw, self._keyring, direction=Direction.REVISION, endpoint=endpoint)
            if opened.header.revision != digest:
                raise UnsupportedCall(f"the record of revision {digest[:12]} of {endpoint} is another's")
            known = self._permits[endpoint, digest] = codec.Revision.unpack(opened.payload).calls
        return known

    def _terms(self, callee: str, options: Mapping[str, Any]) -> Terms:
        broker = self._connected().broker
        written = broker.execute("HGET", broker.keys.of("endpoint", callee), "spec")
        try:
            defaults = json.loads(text(written) or "{}").get("call_defaults", {})
            spec = EndpointSpec(name=callee, cpu="any", **defaults)
        except (ValueError, TypeError, AttributeError) as error:
            raise BrokerError(f"the record of endpoint {callee} cannot be read: {error}") from None
        if "priority" in options:
            raise UnsupportedCall("with_options(priority=…): calls from inside jobs go before all others")
        return replace(terms_of(spec, CallOptions(**options)), priority=NESTED_PRIORITY)

    # -- answering -----------------------------------------------------------------------------------
    def _on_acknowledged(self, line: Line, number: int, job: EndpointJob[Any]) -> None:
        if number in line.jobs and job._call.acknowledged.error is None:  # noqa: SLF001
            self._say(line, number, {"what": "accepted", "job": job.id, "cold": job.cold_start})

    def _on_ended(self, line: Line, number: int, job: EndpointJob[Any]) -> None:
        if line.jobs.pop(number, None) is not None:
            self._say(line, number, *self._ending_of(job))

    def _ending_of(self, job: EndpointJob[Any]) -> tuple[dict[str, Any], bytes]:
        call = job._call  # noqa: SLF001
        try:
            ending = call.ended.result(0)
            found = self._connected().waiting.verified(call, ending)
        except FlashqError as error:
            return refusal(error), b""
        said: dict[str, Any] = {"what": "ended", "state": ending.state.value}
        if not isinstance(found, Failure):
            return said, found.payload
        fields = {name: getattr(found, name) for name in ("message", "type", "traceback", "log")}
        return {**said, "failure": {**fields, "kind": found.kind.value}}, found.exception

    def _say(self, line: Line, number: int, meta: Mapping[str, Any], blob: bytes = b"") -> None:
        line.unsent += map(memoryview, frames.pieces(FrameType.REPLY, {**meta, "call": number}, blob))
        self._flush(line)

    def _flush(self, line: Line) -> None:
        if line.ours.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            while line.unsent:
                count = line.ours.send(line.unsent[0])
                if count < len(line.unsent[0]):
                    line.unsent[0] = line.unsent[0][count:]
                    break
                line.unsent.popleft()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
        self._selector.modify(line.ours, events, line)


def refusal(error: FlashqError) -> dict[str, Any]:
    """Why a call was not accepted, as a REPLY's meta."""
    said: dict[str, Any] = {"what": "refused", "error": type(error).__name__, "message": str(error)}
    if isinstance(error, QueueFull):
        said |= {"endpoint": error.endpoint, "waiting": error.waiting}
    return said
