"""Failures as exceptions: what a caller, or a job that calls, gets raised for one. Unpickles nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq import errors
from flashq.model.outcome import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable


def exception_for(failure: Failure, job: str, rebuild: Callable[[bytes], Any]) -> BaseException:
    """What a caller gets raised for a failure: the user's own exception, or the flashq error that says it.

    `rebuild` makes the user's exception of its bytes, whose signature was verified; what it raises is passed over.
    """
    if failure.kind is FailureKind.EXCEPTION:
        return _user_exception(failure, job, rebuild)
    message = failure.message
    if failure.kind is FailureKind.UNSERIALIZABLE:
        return errors.ResultNotSerializable(
            message, type_name=failure.type, traceback=failure.traceback, job_id=job, log=failure.log
        )
    kinds: dict[FailureKind, type[errors.JobError]] = {
        FailureKind.CRASH: errors.WorkerCrashed,
        FailureKind.LOST: errors.WorkerCrashed,
        FailureKind.LOST_ONCE: errors.JobLost,
        FailureKind.TIMEOUT: errors.JobTimedOut,
        FailureKind.EXPIRED: errors.JobExpired,
        FailureKind.CANCELLED: errors.JobCancelled,
        FailureKind.REFUSED: errors.JobRefused,
        FailureKind.START: errors.EndpointFailed,
    }
    return kinds[failure.kind](message, job_id=job, log=failure.log)


def _missing(error: Exception) -> str:
    """What to do about a module that is not there where the job ran."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return (
        f"\n\nThe worker has no module {error.name!r}: list its package in the endpoint's dependencies=[...]"
    )


def _user_exception(failure: Failure, job: str, rebuild: Callable[[bytes], Any]) -> BaseException:
    note = (
        f"\nIn job {job}, on the worker:\n{failure.traceback.rstrip()}"
        if failure.traceback
        else f"\nIn job {job}"
    )
    if failure.exception:
        try:
            rebuilt = rebuild(failure.exception)
        except Exception:  # noqa: BLE001 — a class that is not here, or whose own code fails: the text remains
            rebuilt = None
        if isinstance(rebuilt, Exception):  # a SystemExit or CancelledError is not the caller's
            rebuilt.add_note(note + _missing(rebuilt))
            return rebuilt
    remote = errors.RemoteError(
        f"{failure.type}: {failure.message}", type_name=failure.type, traceback=failure.traceback, job_id=job
    )
    remote.add_note(note)
    return remote
