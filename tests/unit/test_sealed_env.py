"""The sealed values of `env=`: whatever stands in their place in the broker is values, or one of three errors."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq import codec
from flashq.errors import BadSignature, EnvelopeError, MalformedEnvelope, UnknownKey
from flashq.model.keyring import Keyring

KEYS = Keyring([bytes(32)])
SEALED = codec.seal_environment({"TOKEN": "canary"}, KEYS, "embed")
KEY, NONCE, TEXT = msgpack.unpackb(SEALED)


def test_values_come_back_for_their_own_endpoint_alone() -> None:
    assert codec.open_environment(SEALED, KEYS, "embed") == {"TOKEN": "canary"}
    assert b"canary" not in SEALED
    with pytest.raises(BadSignature):
        codec.open_environment(SEALED, KEYS, "other")
    with pytest.raises(UnknownKey):
        codec.open_environment(SEALED, Keyring([b"x" * 32]), "embed")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([KEY, NONCE, TEXT[:-1] + bytes([TEXT[-1] ^ 1])], BadSignature),
        ([KEY, NONCE[:-1] + bytes([NONCE[-1] ^ 1]), TEXT], BadSignature),
        ([KEY, b"short", TEXT], BadSignature),
        ([KEY, 7, TEXT], BadSignature),
        ([KEY, "text", TEXT], BadSignature),
        ([KEY, None, None], BadSignature),
        ([KEY, NONCE, [1, 2]], BadSignature),
        ([[KEY], NONCE, TEXT], UnknownKey),
        ([KEY, NONCE], MalformedEnvelope),
        (7, MalformedEnvelope),
        ({"a": 1}, MalformedEnvelope),
    ],
)
def test_what_was_altered_is_refused(parts: Any, error: type[EnvelopeError]) -> None:
    with pytest.raises(error) as refused:
        codec.open_environment(msgpack.packb(parts), KEYS, "embed")
    assert "canary" not in str(refused.value)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        codec.open_environment(raw, KEYS, "embed")
