"""What the broker says of a call, as a value or an error: that it was not accepted, how its job ended.

The broker's word is believed for failures (text only); a value is taken from a verified outcome alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flashq import codec, errors
from flashq.model.lifecycle import JobState
from flashq.model.outcome import Failure, FailureKind
from flashq.model.visible import visible_lines

if TYPE_CHECKING:
    from flashq.model.envelope import Envelope, Keys
    from flashq.model.outcome import Ending

_BROKERS_OWN = (
    FailureKind.LOST,
    FailureKind.LOST_ONCE,
    FailureKind.EXPIRED,
    FailureKind.START,
    FailureKind.REFUSED,
)


def verified_value(
    ending: Ending, keys: Keys, *, endpoint: str, job: str, call_digest: str, unpickle: bool = True
) -> Envelope:
    """The verified outcome that holds the job's value.

    Raises why there is none: the function's own exception (with `unpickle=False` always as text), a JobError,
    or an EnvelopeError where the outcome is not what this call may be answered with.
    """
    found = verified(ending, keys, endpoint=endpoint, job=job, call_digest=call_digest)
    if isinstance(found, Failure):
        raise codec.exception_for(found if unpickle else replace(found, exception=b""), job)
    return found


def verified(ending: Ending, keys: Keys, *, endpoint: str, job: str, call_digest: str) -> Envelope | Failure:
    """The verified outcome that holds the job's value, or why there is none.

    Raises ResultExpired where it is kept no longer, EnvelopeError where it is not what this call may be answered with.
    """
    if not ending.outcome:
        return _unsigned(ending, job)
    opened = codec.open_outcome(ending.outcome, keys, endpoint=endpoint, job=job, call_digest=call_digest)
    if opened.header.fence != ending.fence or opened.header.status != ending.state.value:
        raise errors.WrongBinding(f"the outcome of job {job} is of another attempt or of another ending")
    return opened if ending.state is JobState.FINISHED else codec.failure_of(opened)


def _unsigned(ending: Ending, job: str) -> Failure:
    if ending.state is JobState.FINISHED:
        raise errors.ResultExpired(f"job {job} completed; its result is kept no longer", job_id=job)
    kind = next((k for k in _BROKERS_OWN if k == ending.reason), FailureKind.CANCELLED)
    text = visible_lines(ending.text or ending.reason)  # anybody who can write to the broker can have said it
    return Failure(kind, f"job {job}: {text}")


# -- calls that were not accepted --------------------------------------------------------------------


def full(endpoint: str, waiting: str) -> errors.QueueFull:
    """As many jobs wait as may."""
    return errors.QueueFull(
        f"endpoint {endpoint} is full: {waiting} jobs wait, as many as its max_queued allows",
        endpoint=endpoint,
        waiting=int(waiting),
    )


def conflict(first: str) -> errors.IdempotencyConflict:
    """The idempotency key stands for another call."""
    message = f"the key was used for job {first}, a call with other arguments or of another target"
    return errors.IdempotencyConflict(message, job_id=first)


def spent(first: str) -> errors.ResultExpired:
    """The idempotency key stands for a job that completed and is gone."""
    message = f"the key was used for job {first}, which completed; its result is kept no longer"
    return errors.ResultExpired(message, job_id=first)
