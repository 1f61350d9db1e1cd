"""What becomes of a job, from what happened to it: pure but for a random fraction that spreads retries."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from flashq.errors import PythonMismatch, WrongBinding
from flashq.model.outcome import Failure, FailureKind
from flashq.model.retry import parse_retries, retry_decision
from flashq.store.records import Settlement
from flashq_worker.outcomes import FAILURE_KEEP_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.model.envelope import Header
    from flashq.store.records import Claimed
    from flashq_worker.assignment import Assignment, Stop
    from flashq_worker.executor.frames import Frame
    from flashq_worker.outcomes import OutcomeWriter


def check_python(header: Header, here: str) -> None:
    """Raises PythonMismatch where a pickled call was made by another minor version of Python."""
    if header.encoding == "pickle" and header.python != here:
        raise PythonMismatch(
            f"the call was made by Python {header.python}, and this endpoint's workers run Python {here}; "
            "pickled functions and arguments need the same minor version"
        )


def check_cloudpickle(header: Header, here: str) -> None:
    """Raises PythonMismatch where what was pickled elsewhere is more than the cloudpickle here can be relied on for.

    It reads what older ones of the same major version wrote. Records that do not say are taken.
    """
    theirs = header.cloudpickle
    if header.encoding == "pickle" and theirs and not _reads(here, theirs):
        raise PythonMismatch(
            f"it was pickled with cloudpickle {theirs}, and this host's workers have {here}: "
            "they read the same major version, up to their own; upgrade what is older"
        )


def _reads(here: str, theirs: str) -> bool:
    try:
        (major, minor), (their_major, their_minor) = (map(int, v.split(".")) for v in (here, theirs))
    except ValueError:
        return here == theirs
    return major == their_major and minor >= their_minor


def refused(row: Claimed, error: Exception) -> Settlement:
    """The worker will not run a claimed job whose call it could not verify: the answer is as unsigned as the call."""
    text = f"refused by its worker: {type(error).__name__}: {error}"
    return Settlement(row.job, row.fence, "failed", reason="refused", text=text, keep_s=FAILURE_KEEP_S)


def check_target(header: Header, kind: str | None) -> None:
    """Raises WrongBinding where the code has nothing of this name to be called. `kind`: of what it has."""
    if kind is None:
        what = f"no method {header.target!r}" if header.target else "methods, of which the call names none"
        raise WrongBinding(f"endpoint {header.endpoint} has {what}")


def of_outcome(
    held: Assignment,
    frame: Frame,
    outcomes: OutcomeWriter,
    timing: Mapping[str, Any],
    tail: Callable[[], str],
) -> Settlement:
    """What to store for an executor's OUTCOME: a value, a failure, or another try."""
    meta = frame.meta
    status = meta["status"]
    if status == "ok":
        return outcomes.value(held, meta["encoding"], frame.blob, timing)
    if status in ("cancelled", "timeout"):
        return stopped(
            held, "timeout" if status == "timeout" else "cancel", outcomes, timing=timing, log=tail()
        )
    error = meta["error"]
    kind = FailureKind.EXCEPTION if error["kind"] == "exception" else FailureKind.UNSERIALIZABLE
    failure = Failure(
        kind, error["message"], type=error["type"], traceback=error["traceback"], exception=bytes(frame.blob)
    )
    settlement = outcomes.failure(held, failure, timing)
    again = _retry(held, error)
    return settlement if again is None else again


def _retry(held: Assignment, error: Mapping[str, Any]) -> Settlement | None:
    if not held.header.retry or held.stop is not None:
        return None
    decision = retry_decision(
        parse_retries(json.loads(held.header.retry)),
        error_kind=error["kind"],
        type_names=error.get("types") or [error["type"]],
        retries_used=held.claimed.retries_used,
        fraction=random.random(),  # noqa: S311 — spreads retries, guards nothing
    )
    if decision is None:
        return None
    text = f"{error['type']}: {error['message']}"[:500]
    return Settlement(
        held.job, held.fence, "retry", reason="retry", text=text, delay_ms=int(decision.delay_s * 1000)
    )


def crashed(held: Assignment, how: str, log: str) -> Failure:
    """The process running a job died; for the case that it may not run again."""
    if held.once:
        message = f"job {held.job}: the process running it {how}; it had begun, and may do so only once (at_most_once)"
        return Failure(FailureKind.LOST_ONCE, message, log=log)
    message = f"job {held.job}: the process running it {how}; it was tried as often as it may be"
    return Failure(FailureKind.CRASH, message, log=log)


def stopped(
    held: Assignment,
    why: Stop,
    outcomes: OutcomeWriter,
    *,
    killed: bool = False,
    timing: Mapping[str, Any] | None = None,
    log: str = "",
) -> Settlement:
    """A job ended because it was asked to, or was killed because it would not."""
    how = " (it did not stop when asked, so its process was killed)" if killed else ""
    if why == "timeout":
        message = f"job {held.job} ran longer than {held.header.timeout_ms / 1000:g} s{how}"
        return outcomes.failure(held, Failure(FailureKind.TIMEOUT, message, log=log), timing)
    return outcomes.failure(
        held, Failure(FailureKind.CANCELLED, f"job {held.job} was cancelled{how}"), timing
    )
