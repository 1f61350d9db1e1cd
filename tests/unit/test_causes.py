"""`flashq why`: each cause, from the facts that call for it."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.model.causes import TOLD, Cause, Facts, explain
from flashq.model.lifecycle import JobState
from flashq.model.outcome import FailureKind
from flashq_autoscaler import views

QUEUED = JobState.QUEUED

#: cause → the facts, and words of the answer
CASES: list[tuple[Cause, dict[str, Any], str]] = [
    (Cause.COMPLETED, {"state": JobState.FINISHED}, "returned"),
    (Cause.CANCELLED, {"state": JobState.CANCELLED, "reason": "cancelled"}, "cancelled"),
    (Cause.EXCEPTION, {"state": JobState.FAILED, "reason": "exception", "error": "KeyError: k\nand"}, "KeyError: k"),
    (Cause.UNSERIALIZABLE, {"state": JobState.FAILED, "reason": "unserializable"}, "pickled"),
    (Cause.CRASH, {"state": JobState.FAILED, "reason": "crash", "error": "killed by SIGSEGV"}, "SIGSEGV"),
    (Cause.LOST, {"state": JobState.FAILED, "reason": "lost"}, "silent"),
    (Cause.LOST, {"state": JobState.FAILED, "reason": "lost_once"}, "silent"),
    (Cause.TIMEOUT, {"state": JobState.TIMED_OUT, "reason": "timeout"}, "timeout"),
    (Cause.TIMEOUT, {"state": JobState.TIMED_OUT, "reason": "of a newer version"}, "timeout"),
    (Cause.EXPIRED, {"state": JobState.TIMED_OUT, "reason": "expired"}, "ttl"),
    (Cause.REFUSED, {"state": JobState.FAILED, "reason": "refused"}, "signed"),
    (Cause.CANNOT_START, {"state": JobState.FAILED, "reason": "start", "error": "no such package"}, "no such package"),
    (Cause.RUNNING, {"state": JobState.RUNNING, "worker": "w-1"}, "worker w-1 runs it"),
    (Cause.STOPPING, {"state": JobState.RUNNING, "worker": "w-1", "stopping": True}, "told to stop"),
    (Cause.CLAIMED, {"state": JobState.CLAIMED, "worker": "w-1"}, "about to begin"),
    (Cause.HELD, {"state": QUEUED, "held": True, "paused": True}, "earlier run"),
    (Cause.DELAYED, {"state": JobState.SCHEDULED, "due_in_s": 2.04}, "its time, in 2.0 s"),
    (Cause.RETRYING, {"state": JobState.SCHEDULED, "due_in_s": 3, "retries": 1, "error": "E: x"}, "after: E: x"),
    (Cause.UNDEPLOYED, {"state": QUEUED, "registered": False}, "not registered"),
    (Cause.PAUSED, {"state": QUEUED, "paused": True, "condition": "NO_GPU"}, "paused"),
    (Cause.BROKER_DISK, {"state": QUEUED, "broker_disk": True, "broker_memory": "full", "starting": 1}, "its disk"),
    (Cause.BROKER_DISK, {"state": JobState.RUNNING, "worker": "w-1", "broker_disk": True}, "its disk"),
    (Cause.BROKER_MEMORY, {"state": QUEUED, "broker_memory": "9 of 8", "busy": 2, "most": 2}, "9 of 8"),
    (Cause.BROKER_MEMORY, {"state": JobState.RUNNING, "worker": "w-1", "broker_memory": "9 of 8"}, "w-1 has it"),
    (Cause.PAUSED, {"state": QUEUED, "broker_memory": "9 of 8", "paused": True}, "paused"),
    (Cause.NO_HOST, {"state": QUEUED, "condition": "NO_HOST", "detail": "drained: h1"}, "drained: h1"),
    (Cause.NO_SLOT, {"state": QUEUED, "condition": "QUOTA"}, "as many workers"),
    (Cause.NO_CPU, {"state": QUEUED, "condition": "NO_CPU"}, "cores"),
    (Cause.HOST_MEMORY, {"state": QUEUED, "condition": "HOST_MEMORY"}, "memory"),
    (Cause.FOREIGN_MEMORY, {"state": QUEUED, "condition": "FOREIGN_MEMORY"}, "none of flashq's"),
    (Cause.NO_GPU, {"state": QUEUED, "condition": "NO_GPU", "detail": "worker w of e has it"}, "worker w of e has it"),
    (Cause.NO_PYTHON, {"state": QUEUED, "condition": "NO_PYTHON"}, "Python"),
    (Cause.LACKING, {"state": QUEUED, "condition": "LACKING"}, "packages"),
    (Cause.NO_LABEL, {"state": QUEUED, "condition": "NO_LABEL"}, "labels"),
    (Cause.BACKOFF, {"state": QUEUED, "condition": "BACKOFF", "detail": "3 failed starts"}, "3 failed starts"),
    (Cause.GIVEN_UP, {"state": QUEUED, "condition": "GIVEN_UP"}, "seven days"),
    (Cause.NO_AUTOSCALER, {"state": QUEUED, "autoscaler": False}, "no autoscaler leads"),
    (Cause.NO_AUTOSCALER, {"state": QUEUED, "autoscaler": False, "most": 3, "busy": 1, "ahead": 2}, "2 before it"),
    (Cause.BUILDING, {"state": QUEUED, "starting": 1, "building": "h1", "building_s": 12.3}, "on host h1 for 12 s"),
    (Cause.BUILDING, {"state": JobState.CLAIMED, "worker": "w-1", "building": "h1"}, "worker w-1 has it"),
    (Cause.STARTING, {"state": QUEUED, "starting": 1, "most": 2}, "1 worker starting"),
    (Cause.BEHIND, {"state": QUEUED, "busy": 2, "most": 2, "ahead": 7, "condition": "QUOTA"}, "; 7 before it"),
    (Cause.BEHIND, {"state": QUEUED, "busy": 1, "most": 2}, "1 worker busy"),
    (Cause.NO_GPU, {"state": QUEUED, "busy": 1, "most": 2, "condition": "NO_GPU"}, "No host"),
    (Cause.SOON, {"state": QUEUED, "busy": 1, "most": 2, "withheld": "empty in 0.2 s"}, "empty in 0.2 s"),
    (Cause.THRESHOLD, {"state": QUEUED, "most": 2, "withheld": "1 s", "withheld_code": "QUEUE_DELAY"}, "1 s"),
    (Cause.UNHURRIED, {"state": QUEUED, "unhurried": True, "autoscaler": False}, "no worker is started"),
    (Cause.BEHIND, {"state": QUEUED, "unhurried": True, "busy": 1, "most": 2}, "1 worker busy"),
    (Cause.TURN, {"state": QUEUED}, "just now"),
    (Cause.TURN, {"state": QUEUED, "idle": 1, "autoscaler": False}, "just now"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "facts", "words"), CASES)
def test_one_cause_is_chosen(cause: Cause, facts: dict[str, Any], words: str) -> None:
    found = explain(Facts(**facts))
    assert found.cause is cause
    assert words in found.detail
    assert found.advice == TOLD[cause].advice


def test_the_list_is_closed() -> None:
    assert {cause for cause, _, _ in CASES} == set(Cause) == TOLD.keys()


def test_every_code_of_a_condition_and_every_failure_has_its_cause() -> None:
    for code in (*views.ThrottleCode.__args__, *views.UnhealthyCode.__args__):  # type: ignore[attr-defined]
        assert explain(Facts(state=QUEUED, condition=code)).cause is not Cause.TURN, code
    causes = {kind: explain(Facts(state=JobState.FAILED, reason=kind)).cause for kind in FailureKind}
    assert [kind for kind, cause in causes.items() if cause is Cause.EXCEPTION] == ["exception", "cancelled"]
