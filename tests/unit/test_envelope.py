"""The wire: golden vectors that later versions must read and write, and every way a record can be wrong."""

from __future__ import annotations

import dataclasses
import hmac
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.codec import Revision
from flashq.errors import (
    BadSignature,
    EnvelopeError,
    EnvelopeExpired,
    MalformedEnvelope,
    UnknownKey,
    WrongBinding,
)
from flashq.model import envelope
from flashq.model.envelope import Header, open_sealed, resigned, seal
from flashq.model.keyring import Direction, EndpointKeys, Keyring, hkdf_sha256
from flashq.model.outcome import Failure, FailureKind

GOLDEN = Path(__file__).parent / "golden"
ROOT = bytes(range(32))
KEYS = Keyring([ROOT])

HEADERS = {
    "call": Header(
        direction=Direction.CALL,
        endpoint="embed",
        job="embed-6f1c9a52-5b1e-4a2c-9d57-0c7f7f3f9f11",
        generation=1,
        revision="ab" * 32,
        target="method",
        encoding="pickle",
        python="3.11",
        delivery="at_most_once",
        priority=-3,
        timeout_ms=60_000,
        ttl_ms=86_400_000,
        not_before_ms=1_700_000_000_500,
        created_ms=1_700_000_000_000,
        expires_ms=1_700_604_800_000,
        parent="embed-00000000-0000-4000-8000-000000000000",
        retry='{"max":2}',
        keep_s=1800,
        blob="b:1",
    ),
    "minimal-call": Header(direction=Direction.CALL, endpoint="e", job="e-1"),
    "outcome": Header(
        direction=Direction.OUTCOME,
        endpoint="embed",
        job="embed-6f1c9a52-5b1e-4a2c-9d57-0c7f7f3f9f11",
        revision="ab" * 32,
        python="3.11",
        call_digest="cd" * 32,
        fence=7,
        attempt=2,
        status="finished",
        chunks=3,
    ),
    "chunk": Header(direction=Direction.CHUNK, endpoint="embed", job="embed-1", fence=7, sequence=2),
    "revision": Header(direction=Direction.REVISION, endpoint="embed", revision="ab" * 32, python="3.11"),
    "host-command": Header(
        direction=Direction.HOST_COMMAND, endpoint="embed", host="rig-1a2b3c4d", created_ms=1, expires_ms=2
    ),
    "host-command-of-a-leader": Header(
        direction=Direction.HOST_COMMAND,
        endpoint="embed",
        host="rig-1a2b3c4d",
        created_ms=1,
        expires_ms=2,
        epoch=3,
    ),
}


def golden() -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((GOLDEN / "envelopes.json").read_text())
    return vectors


def opened(name: str, raw: bytes) -> Any:
    header = HEADERS[name]
    return open_sealed(raw, KEYS, direction=header.direction, endpoint=header.endpoint, host=header.host)


@pytest.mark.parametrize("name", HEADERS)
def test_writes_the_golden_bytes(name: str) -> None:
    assert seal(HEADERS[name], b"payload", KEYS).hex() == golden()["envelopes"][name]


@pytest.mark.parametrize("name", HEADERS)
def test_reads_the_golden_bytes(name: str) -> None:
    record = opened(name, bytes.fromhex(golden()["envelopes"][name]))
    assert (record.header, record.payload) == (HEADERS[name], b"payload")


def test_derives_the_golden_keys() -> None:
    vectors = golden()["keys"]
    assert KEYS.ids[0] == vectors["id"]
    for direction in Direction:
        assert KEYS.signing(direction, "embed").secret.hex() == vectors[direction.value]


def test_hkdf_is_rfc_5869s() -> None:
    """Extract with our salt, then expand; the first block by hand."""
    import hashlib
    import hmac

    prk = hmac.new(b"flashq/keyring/1", b"secret", hashlib.sha256).digest()
    assert hkdf_sha256(b"secret", b"info") == hmac.new(prk, b"info\x01", hashlib.sha256).digest()


def test_packs_the_golden_failure() -> None:
    failure = Failure(
        FailureKind.EXCEPTION, "no", type="KeyError", traceback="tb", exception=b"\x80", log="l"
    )
    assert failure.pack().hex() == golden()["failure"]
    assert Failure.unpack(bytes.fromhex(golden()["failure"])) == failure


def test_a_field_of_a_later_version_is_passed_over() -> None:
    """Later work may add header fields: today's reader takes what it knows."""
    raw = _with_header(seal(HEADERS["call"], b"p", KEYS), {"later": "field"})
    assert opened("call", raw).header == HEADERS["call"]


def test_a_newer_version_reads_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the next version of the envelope, expect it to read today's records beside its own, and none after."""
    last = seal(HEADERS["call"], b"p", KEYS)
    assert max(1, envelope.VERSION - 1) >= envelope.OLDEST
    monkeypatch.setattr(envelope, "VERSION", envelope.VERSION + 1)

    assert opened("call", last).header == HEADERS["call"]
    assert opened("call", seal(HEADERS["call"], b"p", KEYS)).header == HEADERS["call"]
    for wrong in (envelope.VERSION + 1, envelope.OLDEST - 1, "1", True):
        with pytest.raises(MalformedEnvelope, match=r"version|type"):
            opened("call", _with_header(last, {"v": wrong}))


def test_a_record_of_an_earlier_version_lacks_what_came_since() -> None:
    """Given a revision record without a field that has a default, expect the default; without another, an error."""

    @dataclasses.dataclass(frozen=True, slots=True)
    class Later(Revision):
        added: str = "unset"

    earlier = Revision(b"f", "f", "sync", "3.11", ("numpy",), 1, "env", "{}")

    assert Later.unpack(earlier.pack()) == Later(
        b"f", "f", "sync", "3.11", ("numpy",), 1, "env", "{}", added="unset"
    )
    assert Revision.unpack(Later.unpack(earlier.pack()).pack()) == earlier
    with pytest.raises(MalformedEnvelope):
        Revision.unpack(msgpack.packb({"function": b"f", "dependencies": []}))


def _with_header(raw: bytes, changes: dict[str, Any], *, sign: bool = True) -> bytes:
    import hmac

    head, payload, signature = msgpack.unpackb(raw)
    wire = {**msgpack.unpackb(head), **changes}
    head = msgpack.packb({name: value for name, value in wire.items() if value is not ...})
    if sign:
        key = KEYS.signing(Direction(wire["dir"]), wire["ep"])
        signature = hmac.digest(key.secret, b"flashq/envelope/1\0" + head, "sha256")
    return bytes(msgpack.packb([head, payload, signature]))


CALL = seal(HEADERS["call"], b"payload", KEYS)


def open_call(raw: bytes, **changes: Any) -> Any:
    expected = {"direction": Direction.CALL, "endpoint": "embed", "job": HEADERS["call"].job, "generation": 1}
    return open_sealed(raw, KEYS, **{**expected, **changes})


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", MalformedEnvelope),
        (b"\xc1", MalformedEnvelope),
        (msgpack.packb([b"", b""]), MalformedEnvelope),
        (msgpack.packb([b"", b"", b""]), BadSignature),
        (msgpack.packb(["", b"", b"s" * 32]), MalformedEnvelope),
        (msgpack.packb({"a": 1}), MalformedEnvelope),
        (msgpack.packb([b"x" * 20_000, b"", b"s" * 32]), MalformedEnvelope),
        (msgpack.packb([b"\x80", b"", b"s" * 32]), MalformedEnvelope),
        (CALL[:-1], MalformedEnvelope),
        (CALL + b"x", MalformedEnvelope),
        (msgpack.packb([*msgpack.unpackb(CALL)[:2], b""]), BadSignature),
        (msgpack.packb([*msgpack.unpackb(CALL)[:2], b"\0" * 32]), BadSignature),
        (_with_header(CALL, {"alg": "none"}), UnknownKey),
        (_with_header(CALL, {"kid": "0" * 16}), UnknownKey),
        (_with_header(CALL, {"v": 2}), MalformedEnvelope),
        (_with_header(CALL, {"v": ...}), MalformedEnvelope),
        (_with_header(CALL, {"prio": "high"}), MalformedEnvelope),
        (_with_header(CALL, {"dir": "sideways"}, sign=False), BadSignature),
        (_with_header(CALL, {"job": "embed-other"}, sign=False), BadSignature),
        (_with_header(CALL, {"job": "embed-other"}), WrongBinding),
        (_with_header(CALL, {"gen": 2}), WrongBinding),
        (_with_header(CALL, {"ns": "other"}), WrongBinding),
        (_with_header(CALL, {"len": 3}), BadSignature),
        (seal(dataclasses.replace(HEADERS["call"], endpoint="other"), b"payload", KEYS), BadSignature),
        (seal(HEADERS["outcome"], b"payload", KEYS), BadSignature),
    ],
)
def test_anything_wrong_is_refused(raw: bytes, error: type[EnvelopeError]) -> None:
    with pytest.raises(error):
        open_call(raw)


def test_duplicate_header_keys_are_refused() -> None:
    head = msgpack.packb({"v": 1})
    twice = bytes([0x82]) + head[1:] + head[1:]
    with pytest.raises(MalformedEnvelope):
        open_call(msgpack.packb([twice, b"", b"s" * 32]))


def test_an_expired_record_is_refused() -> None:
    with pytest.raises(EnvelopeExpired, match="1 ms"):
        open_call(CALL, now_ms=HEADERS["call"].expires_ms + 1)


def test_a_record_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(MalformedEnvelope, match="limit"):
        open_call(seal(HEADERS["call"], b"x" * 100_000, KEYS), max_bytes=1000)


def test_another_root_key_is_refused() -> None:
    with pytest.raises(UnknownKey):
        open_sealed(CALL, Keyring([b"o" * 32]), direction=Direction.CALL, endpoint="embed")


def test_while_keys_rotate_both_verify_and_the_first_signs() -> None:
    both = Keyring([b"n" * 32, ROOT])
    assert open_sealed(CALL, both, direction=Direction.CALL, endpoint="embed").key_id == KEYS.ids[0]
    assert (
        open_sealed(
            seal(HEADERS["minimal-call"], b"", both), both, direction=Direction.CALL, endpoint="e"
        ).key_id
        == both.ids[0]
    )


def test_a_workers_keys_open_its_own_endpoint_only_and_survive_the_pipe() -> None:
    own = EndpointKeys.from_wire(json.loads(json.dumps(KEYS.for_endpoint("embed").to_wire())))
    assert open_sealed(CALL, own, direction=Direction.CALL, endpoint="embed").payload == b"payload"
    with pytest.raises(UnknownKey):
        open_sealed(seal(HEADERS["minimal-call"], b"", KEYS), own, direction=Direction.CALL, endpoint="e")
    assert ROOT.hex() not in repr(own)
    assert own.keys[Direction.CALL][0].secret.hex() not in repr(own)


@given(position=st.integers(0, len(CALL) - 1), change=st.integers(1, 255))
def test_no_flipped_byte_survives(position: int, change: int) -> None:
    flipped = bytearray(CALL)
    flipped[position] ^= change
    with pytest.raises(EnvelopeError):
        open_call(bytes(flipped))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_call(raw)
    with pytest.raises(MalformedEnvelope):
        Failure.unpack(b"\xc1" + raw)


# -- more than one key -------------------------------------------------------------------------------


def test_a_record_may_be_signed_with_any_key_that_verifies() -> None:
    old, new = Keyring([bytes([7]) * 32]), Keyring([bytes([8]) * 32])
    both = Keyring([bytes([8]) * 32, bytes([7]) * 32])
    header = Header(direction=Direction.OUTCOME, endpoint="embed", job="embed-1")

    made = seal(header, b"x", both)
    assert open_sealed(made, new, direction=Direction.OUTCOME, endpoint="embed").key_id == new.ids[0]
    answer = seal(header, b"x", both, key_id=old.ids[0])
    assert open_sealed(answer, old, direction=Direction.OUTCOME, endpoint="embed").key_id == old.ids[0]
    # One that is not there any more is no reason not to answer.
    answer = seal(header, b"x", new, key_id=old.ids[0])
    assert open_sealed(answer, new, direction=Direction.OUTCOME, endpoint="embed").key_id == new.ids[0]


def test_a_record_is_put_under_the_key_that_signs_now_with_all_that_stood_in_it() -> None:
    old, new = Keyring([bytes([7]) * 32]), Keyring([bytes([8]) * 32])
    both = Keyring([bytes([8]) * 32, bytes([7]) * 32])
    header = Header(direction=Direction.REVISION, endpoint="embed", revision="r" * 64, python="3.11")
    # Given a record of a later version, which has a field that this one does not know
    head, payload, _ = msgpack.unpackb(seal(header, b"code", old))
    head = msgpack.packb({**msgpack.unpackb(head), "later": "field"})
    secret = old.signing(Direction.REVISION, "embed").secret
    raw = msgpack.packb([head, payload, hmac.digest(secret, b"flashq/envelope/1\0" + head, "sha256")])

    made = resigned(raw, both, direction=Direction.REVISION, endpoint="embed")

    opened = open_sealed(made, new, direction=Direction.REVISION, endpoint="embed")
    assert (opened.header, opened.payload, opened.key_id) == (header, b"code", new.ids[0])
    assert msgpack.unpackb(msgpack.unpackb(made)[0])["later"] == "field"
    with pytest.raises(BadSignature):
        resigned(raw[:-1] + bytes([raw[-1] ^ 1]), both, direction=Direction.REVISION, endpoint="embed")
