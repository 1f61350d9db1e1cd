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
    if not ending.outcome:
        raise _unsigned(ending, job)
    opened = codec.open_outcome(ending.outcome, keys, endpoint=endpoint, job=job, call_digest=call_digest)
    if opened.header.fence != ending.fence or opened.header.status != ending.state.value:
        raise errors.WrongBinding(f"the outcome of job {job} is of another attempt or of another ending")
    if ending.state is not JobState.FINISHED:
        failure = codec.failure_of(opened)
        raise codec.exception_for(failure if unpickle else replace(failure, exception=b""), job)
    return opened


def _unsigned(ending: Ending, job: str) -> BaseException:
    if ending.state is JobState.FINISHED:
        return errors.ResultExpired(f"job {job} completed; its result is kept no longer", job_id=job)
    kind = next((k for k in _BROKERS_OWN if k == ending.reason), FailureKind.CANCELLED)
    text = visible_lines(ending.text or ending.reason)  # anybody who can write to the broker can have said it
    return codec.exception_for(Failure(kind, f"job {job}: {text}"), job)


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
