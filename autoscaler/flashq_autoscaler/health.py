"""Whether an endpoint whose starts failed may start again (R11). Pure.

Only machine trouble counts: a failure of the user's code fails the waiting jobs, elsewhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq_autoscaler.views import EndpointView, Params


@dataclass(frozen=True, slots=True)
class Gate:
    """How many starts an endpoint may have under way now."""

    open: bool = True
    probing: bool = False
    """The last start failed: one start at a time, after everybody else's."""
    retry_at: float | None = None
    """When it opens again (or opened, while probing); None: nothing failed, or flashq has given up."""
    given_up: bool = False


OPEN = Gate()


def gate_of(endpoint: EndpointView, now: float, params: Params) -> Gate:
    """Closed from a failed start until `retry_at`, for good once the failures have lasted `give_up_s`.

    Its name spreads the retries of those whose starts failed together.
    """
    if endpoint.failures <= 0:
        return OPEN
    first, last = endpoint.first_failure_at, endpoint.last_failure_at
    if first is not None and now >= first + params.give_up_s:
        return Gate(open=False, probing=True, given_up=True)
    if last is None:
        return Gate(probing=True, retry_at=now)
    retry_at = last + retry_delay_s(endpoint.name, endpoint.failures, params)
    return Gate(open=now >= retry_at, probing=True, retry_at=retry_at)


def retry_delay_s(name: str, failures: int, params: Params) -> float:
    """`min(base · 2^k, cap)` after the k-th failure beyond the first, and up to `retry_jitter` more.

    What is added depends on the name and `failures` only, so that every decision names the same moment.
    """
    delay_s = min(params.retry_base_s * 2.0 ** min(failures - 1, 64), params.retry_cap_s)
    spread = zlib.crc32(f"{name} {failures}".encode()) / 2**32
    return delay_s * (1.0 + params.retry_jitter * spread)
