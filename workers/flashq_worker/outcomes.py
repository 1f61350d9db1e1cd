"""Turns how a job ended into what is stored: a signed outcome with the state, reason and text beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashq.model.envelope import Header, Keys, seal
from flashq.model.keyring import Direction
from flashq.model.lifecycle import JobState
from flashq.model.outcome import FAILURE_ENCODING, MAX_TEXT, Failure, FailureKind
from flashq.store.records import Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq_worker.assignment import Assignment

DEFAULT_KEEP_S = 1800
FAILURE_KEEP_S = 7 * 86_400
_LEAST_TEXT = 64  # characters of a message that are sent however low the limit is
_STATES = {
    FailureKind.CANCELLED: JobState.CANCELLED,
    FailureKind.TIMEOUT: JobState.TIMED_OUT,
    FailureKind.EXPIRED: JobState.TIMED_OUT,
}


class OutcomeWriter:
    """Signs outcomes for one endpoint."""

    def __init__(self, keys: Keys, endpoint: str, limit: int) -> None:
        self._keys = keys
        self._endpoint = endpoint
        self._limit = limit

    def value(self, held: Assignment, encoding: str, value: bytes, timing: Mapping[str, Any]) -> Settlement:
        """The job returned: `value` is its encoded result."""
        if len(value) > self._limit:
            message = f"the result takes {len(value):,} bytes encoded; the limit is {self._limit:,}"
            return self.failure(held, Failure(FailureKind.UNSERIALIZABLE, message), timing)
        raw = self._sign(held, encoding, value, JobState.FINISHED)
        keep_s = held.header.keep_s or DEFAULT_KEEP_S
        return Settlement(
            held.job,
            held.fence,
            "finished",
            outcome=raw,
            keep_s=keep_s,
            timing=json.dumps(timing, separators=(",", ":")),
        )

    def failure(
        self, held: Assignment, failure: Failure, timing: Mapping[str, Any] | None = None
    ) -> Settlement:
        """The job ended without a value."""
        state = _STATES.get(failure.kind, JobState.FAILED)
        return Settlement(
            held.job,
            held.fence,
            state.value,
            reason=failure.kind.value,
            text=_headline(failure),
            outcome=self._sign(held, FAILURE_ENCODING, packed(failure, self._limit), state),
            keep_s=max(held.header.keep_s, FAILURE_KEEP_S),
            timing=json.dumps(timing, separators=(",", ":")) if timing else "",
        )

    def chunk(self, held: Assignment, number: int, encoding: str, value: bytes) -> bytes:
        """One of the values that the job yields, signed."""
        header = Header(
            direction=Direction.CHUNK,
            endpoint=self._endpoint,
            job=held.job,
            generation=held.claimed.generation,
            revision=held.claimed.revision,
            encoding=encoding,
            python=held.header.python,
            call_digest=held.call_digest,
            fence=held.fence,
            attempt=held.claimed.attempt,
            sequence=number,
        )
        return seal(header, value, self._keys, key_id=held.key_id)

    def _sign(self, held: Assignment, encoding: str, payload: bytes, state: JobState) -> bytes:
        header = Header(
            direction=Direction.OUTCOME,
            endpoint=self._endpoint,
            job=held.job,
            generation=held.claimed.generation,
            revision=held.claimed.revision,
            encoding=encoding,
            python=held.header.python,
            call_digest=held.call_digest,
            fence=held.fence,
            attempt=held.claimed.attempt,
            status=state.value,
            chunks=held.outflow.count,
        )
        return seal(header, payload, self._keys, key_id=held.key_id)


def packed(failure: Failure, limit: int) -> bytes:
    """A failure within `limit` bytes: what it has too many of is left out, the pickled exception first."""
    if len(failure.exception) > limit:
        failure = replace(failure, exception=b"")
    packed, size = failure.pack(), MAX_TEXT
    while len(packed) > limit and size > _LEAST_TEXT:
        if failure.exception:
            failure = replace(failure, exception=b"")
        else:
            size //= 2
            failure = replace(
                failure,
                type=failure.type[:size],
                message=failure.message[:size],
                traceback=failure.traceback[-size:],
                log=failure.log[-size:],
            )
        packed = failure.pack()
    return packed


def _headline(failure: Failure) -> str:
    """For listings: one line, no traceback."""
    text = f"{failure.type}: {failure.message}" if failure.type else failure.message
    return text[:500]
