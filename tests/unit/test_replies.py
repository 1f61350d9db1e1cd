"""What the broker says is read by strict rules: anybody who can write to it can say anything."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from flashq.errors import BrokerError
from flashq.store import replies
from flashq.store.command import Command
from flashq.store.records import Claimed

VALUES = [b"embed-1", b"3", b"call", b"r1", b"0", b"1", b"0", b"1750000000000", b"1", b"0"]


def framed(values: list[bytes]) -> bytes:
    return b"".join(b"%d:%s" % (len(value), value) for value in values)


def test_a_job_that_came_with_a_ring() -> None:
    assert replies.handed_over(framed(VALUES)) == Claimed(
        job="embed-1",
        fence=3,
        call=b"call",
        revision="r1",
        generation=0,
        attempt=1,
        losses=0,
        enqueued_ms=1_750_000_000_000,
        cold=True,
        retries_used=0,
    )


@pytest.mark.parametrize(
    "ring",
    [
        b"",
        b"-3:",  # a length that leads back to where it stands
        b"1:x",
        b"0:" * 9,
        b"0:" * 11,
        b" 1:x" * 10,
        b"999999999999:x",
        b"9" * 5000 + b":",
        framed(VALUES) + b"x",
        framed(VALUES[:-1]),
        framed([*VALUES[:1], b"inf", *VALUES[2:]]),
        framed([*VALUES[:7], b"inf", *VALUES[8:]]),
        framed([*VALUES[:7], b"nan", *VALUES[8:]]),
        framed([b"\xff", *VALUES[1:]]),
    ],
)
def test_a_ring_that_is_none_is_told(ring: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        replies.handed_over(ring)


@given(st.binary(max_size=60) | st.lists(st.binary(max_size=8), max_size=12).map(framed))
def test_any_ring_is_read_or_told(ring: bytes) -> None:
    try:
        replies.handed_over(ring)
    except ValueError:
        return
    assert len(ring) >= 20


HOSTILE = st.recursive(
    st.none() | st.integers() | st.binary(max_size=20) | st.sampled_from([b"inf", b"nan", b"1e400", b"\xff"]),
    lambda inner: st.lists(inner, max_size=6),
)


NAMES = "claim advanced renewed watched observed joined reaped registered".split()


@given(st.sampled_from(NAMES), HOSTILE)
def test_any_reply_is_read_or_is_an_error_of_the_broker(name: str, reply: object) -> None:
    command = Command(name, "key", (), getattr(replies, name))
    with contextlib.suppress(BrokerError):
        assert command.answer(reply) is not None
