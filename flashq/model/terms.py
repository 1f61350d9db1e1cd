"""The terms of one call: its options over its endpoint's defaults, in the wire's units. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.errors import SpecError
from flashq.model.retry import AT_MOST_ONCE
from flashq.model.spec import A_SECOND_RUN, CallOptions, canonical_json

if TYPE_CHECKING:
    from flashq.model.spec import EndpointSpec


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call is submitted with. Times are milliseconds, 0: none."""

    priority: int
    timeout_ms: int
    ttl_ms: int
    own_ttl: bool
    """Its ttl is not its endpoint's, or counts from later: its place in the queue does not tell when it expires."""
    delay_ms: int
    key: str
    """The idempotency key; empty: none."""
    retry: str
    """The retry policy as JSON; empty: nothing is retried."""
    delivery: str
    max_deliveries: int
    max_queued: int
    """0: any number."""
    keep_s: int


def terms_of(spec: EndpointSpec, options: CallOptions | None) -> Terms:
    """What a call with these options is submitted with. Raises SpecError where they do not fit the endpoint."""
    given = options or CallOptions()
    retries = spec.retries if given.retries is None else given.retries
    delivery = given.delivery or spec.delivery
    if delivery == AT_MOST_ONCE and retries.max:
        name, advice = ("delivery", "; retries=0 with it") if given.retries is None else ("retries", "")
        raise SpecError(name, f"{A_SECOND_RUN}{advice}", where=CallOptions.where)
    if delivery == AT_MOST_ONCE and spec.batch is not None:
        raise SpecError(
            "delivery", "its endpoint runs batches that fail again, item by item", where=CallOptions.where
        )
    ttl_s = spec.ttl if given.ttl_s is None else given.ttl_s
    return Terms(
        priority=spec.priority if given.priority is None else given.priority,
        timeout_ms=spec.execution_timeout_ms if given.timeout_s is None else int(given.timeout_s * 1000),
        ttl_ms=int(ttl_s * 1000),
        own_ttl=given.ttl_s is not None or bool(given.delay_s),
        delay_ms=int((given.delay_s or 0) * 1000),
        key=given.key or "",
        retry=canonical_json(retries.as_dict()) if retries.max else "",
        delivery=delivery,
        max_deliveries=spec.max_deliveries,
        max_queued=spec.max_queued or 0,
        keep_s=spec.result_ttl,
    )
