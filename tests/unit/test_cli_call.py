"""What an outcome must be for a JSON call to take its value. Nothing here is ever unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from flashq import codec, errors
from flashq.json_call import JsonCall, value_of
from flashq.model.envelope import Header
from flashq.model.keyring import Direction, Keyring
from flashq.model.lifecycle import JobState
from flashq.model.outcome import FAILURE_ENCODING, Failure, FailureKind
from flashq.store.records import Watched

KEYS = Keyring([bytes(range(32))])
CALL = JsonCall("embed-1", "embed", "d" * 64, cold_start=True)


def outcome(payload: bytes = b'{"x": [1, null]}', keys: Keyring = KEYS, **changes: Any) -> bytes:
    header = {
        "direction": Direction.OUTCOME,
        "endpoint": "embed",
        "job": "embed-1",
        "encoding": "json",
        "call_digest": CALL.digest,
        "fence": 3,
        "status": "finished",
    }
    return codec.seal_call(Header(**{**header, **changes}), payload, keys)[0]


def ended(raw: bytes, state: JobState = JobState.FINISHED, reason: str = "", text: str = "") -> Watched:
    return Watched(state, 3, reason, text, raw, 0)


def test_a_true_outcome_gives_its_value() -> None:
    assert value_of(ended(outcome()), KEYS, CALL) == {"x": [1, None]}


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (outcome(call_digest="e" * 64), errors.WrongBinding),
        (outcome(job="embed-2"), errors.WrongBinding),
        (outcome(endpoint="other"), errors.BadSignature),
        (outcome(fence=2), errors.WrongBinding),
        (outcome(status="failed"), errors.WrongBinding),
        (outcome(encoding="pickle"), errors.WrongBinding),
        (outcome(direction=Direction.CALL), errors.BadSignature),
        (outcome(keys=Keyring([b"k" * 32])), errors.UnknownKey),
        (outcome(keys=Keyring([bytes(range(32))], "elsewhere")), errors.EnvelopeError),
        (outcome()[:-1] + b"\0", errors.BadSignature),
        (b"no envelope", errors.MalformedEnvelope),
    ],
)
def test_any_other_outcome_is_refused(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        value_of(ended(raw), KEYS, CALL)


class Evil:
    """Unpickling one leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_an_exception_is_told_and_not_unpickled(tmp_path: Path) -> None:
    failure = Failure(
        FailureKind.EXCEPTION,
        "boom",
        type="KeyError",
        traceback="Trace",
        exception=pickle.dumps(Evil(tmp_path / "x")),
    )
    raw = outcome(failure.pack(), encoding=FAILURE_ENCODING, status="failed")

    with pytest.raises(errors.RemoteError, match="KeyError: boom") as caught:
        value_of(ended(raw, JobState.FAILED), KEYS, CALL)

    assert caught.value.traceback == "Trace"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("state", "reason", "error"),
    [
        (JobState.FINISHED, "", errors.ResultExpired),
        (JobState.FAILED, "lost", errors.WorkerCrashed),
        (JobState.TIMED_OUT, "expired", errors.JobExpired),
        (JobState.FAILED, "start", errors.EndpointFailed),
        (JobState.FAILED, "refused", errors.JobRefused),
        (JobState.CANCELLED, "purged", errors.JobCancelled),
    ],
)
def test_an_ending_without_outcome_is_never_a_value(
    state: JobState, reason: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="job embed-1"):
        value_of(ended(b"", state, reason, "why"), KEYS, CALL)
