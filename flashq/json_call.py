"""Calls of a registered endpoint in JSON: no function, no pickle, only its name and values.

For whoever has no Python function to call: the command line (and, later, the gateway). The call is signed
like any other and runs on the endpoint's current revision; its result comes back as JSON. Nothing is
unpickled here, in either direction.
"""

from __future__ import annotations

import json
import os
import select
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq import codec, errors
from flashq.ending import conflict, full, spent, verified_value
from flashq.kinds import STREAMS
from flashq.model.envelope import CALL_LIFETIME_MS, Header, open_sealed
from flashq.model.idempotency import stands_for
from flashq.model.job_id import RANDOM_BYTES, new_job_id
from flashq.model.keyring import Direction
from flashq.model.lifecycle import TERMINAL
from flashq.model.outcome import Ending
from flashq.model.retry import AT_MOST_ONCE, MAX_DELIVERIES
from flashq.store.line import pack
from flashq.store.queries import absent, read_hash
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.model.envelope import Keys
    from flashq.store.broker import Broker
    from flashq.store.line import Line
    from flashq.store.records import Submitted, Watched

#: What the record of an endpoint that an earlier version registered does not say.
_OLDER = {"delivery": "at_least_once", "max_deliveries": MAX_DELIVERIES, "max_queued": None}
_CHECK_S = 5.0  # what a push may have missed is asked for this often


@dataclass(frozen=True, slots=True)
class JsonCall:
    """A call that was accepted."""

    job: str
    endpoint: str
    digest: str  # of the call's signature: its outcome quotes it; empty: of a job that an earlier call made
    cold_start: bool | None


def submit(
    broker: Broker,
    keys: Keys,
    endpoint: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    payload_limit: int,
    key: str = "",
) -> JsonCall:
    """Submit a call with the endpoint's own defaults (timeout, ttl, retries, priority …).

    `key`: idempotency key. Raises: EndpointNotFound, SerializationError, PayloadTooLarge, QueueFull,
    IdempotencyConflict, ResultExpired (the key's job completed and is gone), UnsupportedCall where it yields its
    values, BrokerError.
    """
    payload = codec.dump_json_arguments(args, kwargs or {}, payload_limit)
    record = read_hash(broker, broker.keys.of("endpoint", endpoint), ("revision", "spec"))
    if not record["revision"]:
        raise errors.EndpointNotFound(f"no endpoint {endpoint} is registered: see `flashq endpoints`")
    _check_returns(broker, keys, endpoint, record["revision"])
    at_ms = now_ms(broker)
    job = new_job_id(endpoint, at_ms, os.urandom(RANDOM_BYTES))
    try:
        defaults = {**_OLDER, **json.loads(record["spec"])["call_defaults"]}
        header = _header(endpoint, job, record["revision"], defaults, at_ms)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise errors.BrokerError(f"the record of endpoint {endpoint} cannot be read: {error!r}") from None
    call, digest = codec.seal_call(header, payload, keys)
    answer = broker.run(
        broker.transitions.submit(
            endpoint,
            job,
            revision=header.revision,
            call=call,
            description=f"{endpoint}({len(payload)} bytes of JSON)",
            priority=header.priority,
            ttl_ms=header.ttl_ms,
            own_ttl=False,
            most_waiting=defaults["max_queued"] or 0,
            max_deliveries=defaults["max_deliveries"],
            at_most_once=header.delivery == AT_MOST_ONCE,
            idempotency_key=key,
            stands_for=stands_for("json", args, kwargs or {}) if key else ("", ""),
        )
    )
    if answer.verdict == "hit":
        return JsonCall(answer.detail, endpoint, "", None)
    return JsonCall(job, endpoint, digest, _accepted(endpoint, answer))


def _check_returns(broker: Broker, keys: Keys, endpoint: str, revision: str) -> None:
    """A function that yields has nothing to answer with. What cannot be read here is for its worker to refuse."""
    raw = broker.execute("GET", broker.keys.of("revision", endpoint, revision)) or b""
    try:
        opened = open_sealed(raw, keys, direction=Direction.REVISION, endpoint=endpoint)
        found = codec.Revision.unpack(opened.payload)
    except errors.EnvelopeError:
        return
    if found.targets:
        raise errors.UnsupportedCall(f"endpoint {endpoint} is a class: call its methods from Python")
    if found.mode in STREAMS:
        raise errors.UnsupportedCall(
            f"endpoint {endpoint} yields its values: read them from Python, with stream(...)"
        )


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _header(endpoint: str, job: str, revision: str, defaults: Mapping[str, Any], at_ms: int) -> Header:
    ttl_ms, retries = int(defaults["ttl"] * 1000), defaults["retries"]
    return Header(
        direction=Direction.CALL,
        endpoint=endpoint,
        job=job,
        revision=revision,
        encoding="json",
        delivery=defaults["delivery"],
        priority=defaults["priority"],
        timeout_ms=defaults["execution_timeout_ms"],
        ttl_ms=ttl_ms,
        created_ms=at_ms,
        expires_ms=at_ms + CALL_LIFETIME_MS + ttl_ms,
        retry=_compact(retries) if retries["max"] else "",
        keep_s=defaults["result_ttl"],
    )


def _accepted(endpoint: str, answer: Submitted) -> bool | None:
    match answer.verdict:
        case "ok":
            return answer.cold
        case "dup":  # sent again after a lost reply: the first one told whether it was cold
            return None
        case "conflict":
            raise conflict(answer.detail)
        case "spent":
            raise spent(answer.detail)
        case "full":
            raise full(endpoint, answer.detail)
        case "unregistered":
            raise errors.EndpointNotFound(f"endpoint {endpoint} was undeployed a moment ago")
        case other:
            raise errors.BrokerError(f"endpoint {endpoint}: the broker answered {other!r}")


# -- its result --------------------------------------------------------------------------------------


def wait(broker: Broker, keys: Keys, call: JsonCall, timeout_s: float | None = None) -> Any:
    """The result, waited for: what `json.loads` makes of it.

    Raises: WaitTimeout after `timeout_s` (the job goes on); a JobError where it ended without a value;
    EnvelopeError where its outcome is not what this call may be answered with; BrokerError, of which
    BrokerStateLost where the broker came back without its data.
    """
    return value_of(_until_ended(broker, call, timeout_s), keys, call)


def _until_ended(broker: Broker, call: JsonCall, timeout_s: float | None) -> Watched:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    channel = broker.keys.of("push", f"json-{uuid.uuid4().hex[:12]}")
    watch = broker.transitions.watch([call.job], channel)
    epoch = broker.run(broker.transitions.epoch())
    line: Line | None = None
    try:
        while True:
            try:
                if line is None:
                    line = broker.connect()
                    line.call(pack("SUBSCRIBE", channel))
                ended = broker.run(watch)[0]
                if ended.state is None:
                    if broker.run(broker.transitions.epoch()) != epoch:
                        why = f"the broker came back without job {call.job}; submit it again"
                        raise errors.BrokerStateLost(why)
                    raise absent(broker, call.job)
                if ended.state in TERMINAL:
                    return ended
                left = _CHECK_S if deadline is None else min(_CHECK_S, deadline - time.monotonic())
                if left <= 0:
                    raise errors.WaitTimeout(
                        f"job {call.job} has not ended within {timeout_s:g} s; it goes on"
                    )
                if select.select([line], [], [], left)[0]:
                    line.receive()  # the news itself: the outcome is read beside it, whatever its size
            except errors.BrokerUnreachable:
                line = None
                broker.run(watch)  # with the broker's patience; raises where it stays away
    finally:
        if line is not None:
            line.close()


def value_of(ended: Watched, keys: Keys, call: JsonCall) -> Any:
    """The value of a job that ended, verified; or raises why there is none (see `wait`)."""
    assert ended.state is not None
    ending = Ending(ended.state, ended.fence, ended.reason, ended.text, ended.outcome)
    opened = verified_value(
        ending, keys, endpoint=call.endpoint, job=call.job, call_digest=call.digest, unpickle=False
    )
    if opened.header.encoding != "json":
        raise errors.WrongBinding(f"the outcome of job {call.job} is encoded as {opened.header.encoding!r}")
    return codec.load_json(opened)
