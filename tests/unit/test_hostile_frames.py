"""Whatever a taken-over executor says is refused as a FrameError, or becomes an outcome that can be sent and signed."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from flashq.model.envelope import Header, open_sealed
from flashq.model.keyring import Direction, Keyring
from flashq.model.outcome import Failure, FailureKind
from flashq.store.keys import Keys
from flashq.store.records import Claimed
from flashq.store.transitions import Transitions
from flashq_worker import verdicts
from flashq_worker.assignment import Assignment
from flashq_worker.executor import frames
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameError, FrameType
from flashq_worker.outcomes import OutcomeWriter

KEYRING = Keyring([bytes(range(32))])
LIMIT = 2000
JOB = "embed-1"

CALL = Header(
    direction=Direction.CALL,
    endpoint="embed",
    job=JOB,
    retry=json.dumps({"max": 3, "delay_s": 1, "backoff": 2.0, "max_delay_s": 60, "on": ["E", "x.Y"]}),
)
# Text as JSON can say it: lone surrogates, NUL, what steers a terminal, and long ones.
TEXTS = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["\ud800", "\x00", "\x1b]0;x\x07", "E" * 5000]
)
NUMBERS = st.floats(allow_nan=True) | st.integers(-5, 10**20) | st.just(10**400) | st.booleans()
ANYTHING = st.recursive(st.none() | NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
ERRORS = st.fixed_dictionaries(
    {"kind": TEXTS | st.just("exception"), "type": TEXTS, "message": TEXTS, "traceback": TEXTS},
    optional={"types": st.lists(TEXTS, max_size=4)},
)
GOOD = {
    "job": st.just(JOB),
    "fence": st.just(1),
    "status": st.sampled_from(["ok", "error", "error", "error", "cancelled", "timeout", "skipped"]),
    "encoding": st.sampled_from(["pickle", "json"]),
    "execution_ms": st.floats(0, 1e6),
}
METAS = st.fixed_dictionaries(GOOD, optional={"error": ERRORS})
NO_METAS = st.fixed_dictionaries(
    {name: good | ANYTHING for name, good in GOOD.items()},
    optional={"error": ERRORS | ANYTHING, "x": ANYTHING},
)


def held() -> Assignment:
    claimed = Claimed(JOB, 1, b"call", "r1", 0, 1, 0, 0, cold=False, retries_used=0)
    return Assignment(claimed, CALL, b"payload", "digest")


def received(kind: int, meta: Any, blob: bytes) -> Frame:
    """A frame as it arrives, checked as the supervisor does. Raises FrameError."""
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    inner = bytes([1, kind]) + len(text).to_bytes(4, "big") + text + blob
    (frame,) = FrameDecoder(LIMIT * 10).feed(len(inner).to_bytes(4, "big") + inner)
    frames.check(frame)
    return frame


@settings(max_examples=300)
@given(METAS | NO_METAS, st.binary(max_size=3000))
def test_an_outcome_is_refused_or_can_be_stored_and_signed(meta: dict[str, Any], blob: bytes) -> None:
    try:
        frame = received(FrameType.OUTCOME, meta, blob)
    except FrameError:
        return
    if frame.meta["status"] == "skipped":
        return
    writer = OutcomeWriter(KEYRING, "embed", LIMIT)
    timing = {"execution_ms": frame.meta["execution_ms"]}

    done = verdicts.of_outcome(held(), frame, writer, timing, lambda: "log")

    assert len(Transitions(Keys()).finish(done, "w").args) > 8
    for text in (done.job, done.state, done.reason, done.text, done.timing):
        assert text.encode().decode() == text
    if done.state != "retry":
        opened = open_sealed(done.outcome, KEYRING, direction=Direction.OUTCOME, endpoint="embed", job=JOB)
        assert len(opened.payload) <= LIMIT
        if opened.header.encoding == "failure":
            assert Failure.unpack(opened.payload).kind in FailureKind


@given(
    st.fixed_dictionaries(
        {"type": TEXTS, "message": TEXTS, "traceback": TEXTS, "machine": st.booleans()},
        optional={"types": ANYTHING},
    )
)
def test_a_failure_to_load_is_refused_or_can_be_told(meta: dict[str, Any]) -> None:
    try:
        frame = received(FrameType.FAILED, meta, b"")
    except FrameError:
        return
    said = f"{frame.meta['type']}: {frame.meta['message']}\n{frame.meta['traceback']}"
    assert said.encode().decode() == said


@given(st.sampled_from([*FrameType, 0, 99]), st.binary(max_size=100), st.binary(max_size=20))
def test_bytes_for_a_meta_are_read_or_refused(kind: int, meta: bytes, blob: bytes) -> None:
    with pytest.raises(FrameError):  # no bytes that hypothesis finds are an executor's frame
        received(kind, meta, blob)
