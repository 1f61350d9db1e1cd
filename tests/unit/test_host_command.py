"""The words a host is sent: their bytes stay as they are, and nothing but such words is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from flashq.errors import BadSignature, EnvelopeExpired, MalformedEnvelope, WrongBinding
from flashq.model.envelope import Header, seal
from flashq.model.host_command import HostCommand, KillWorker, StartWorker, pack, required, unpack
from flashq.model.keyring import Direction, Keyring
from flashq_worker.host.commands import CommandReader, Received

START = StartWorker("embed-1", "embed", "r1", "e1", ("GPU-1", "GPU-2"), 2.0, 1 << 30)
KILL = KillWorker("embed-1")
KEYS = Keyring([bytes(range(32))])

GOLDEN = {
    START: "88a26f70a57374617274a6776f726b6572a7656d6265642d31a8656e64706f696e74a5656d626564a87265766973696f6ea27231"
    "ab656e7669726f6e6d656e74a26531a96770755f757569647392a54750552d31a54750552d32a463707573cb4000000000000000ac"
    "6d656d6f72795f6279746573ce40000000",
    KILL: "82a26f70a46b696c6ca6776f726b6572a7656d6265642d31",
}


@pytest.mark.parametrize("command", [START, KILL], ids=["start", "kill"])
def test_bytes_are_those_of_the_first_version(command: HostCommand) -> None:
    assert pack(command).hex() == GOLDEN[command]
    assert unpack(bytes.fromhex(GOLDEN[command])) == command


def test_what_is_required_of_a_host_travels() -> None:
    order = replace(START, requires=("package ffmpeg", "folder /mnt/models"))
    assert unpack(pack(order)) == order
    assert required({"packages": ["ffmpeg"], "volume": "/mnt/models"}) == order.requires
    assert required({"cpu": None}) == ()


def test_fields_of_a_later_version_are_passed_over() -> None:
    fields = msgpack.unpackb(pack(START))
    assert unpack(msgpack.packb({**fields, "image": "cuda:13"})) == START


def test_fields_that_are_left_out_have_their_defaults() -> None:
    sparse = msgpack.packb({"op": "start", "worker": "embed-1", "endpoint": "embed"})
    assert unpack(sparse) == StartWorker("embed-1", "embed")


@pytest.mark.parametrize(
    "changes",
    [
        {"op": "reboot"},
        {"op": None},
        {"worker": 7},
        {"worker": "../../etc/x"},
        {"worker": "x" * 201},
        {"worker": "ü"},
        {"endpoint": ["embed"]},
        {"gpu_uuids": "GPU-1"},
        {"requires": "package x"},
        {"requires": [1]},
        {"requires": ["folder /" + "x" * 2000]},
        {"gpu_uuids": [1]},
        {"cpus": "2"},
        {"cpus": True},
        {"cpus": -1},
        {"cpus": float("nan")},
        {"memory_bytes": float("inf")},
    ],
)
def test_anything_else_is_malformed(changes: dict[str, Any]) -> None:
    fields = msgpack.unpackb(pack(START))
    with pytest.raises(MalformedEnvelope):
        unpack(msgpack.packb({**fields, **changes}))


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x90", b"\x80", b"\xc0", b"\xdf\xff\xff\xff\xff"], ids=range(6)
)
def test_garbage_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        unpack(raw)


def word(command: HostCommand = START, **changes: Any) -> bytes:
    header = {
        "direction": Direction.HOST_COMMAND, "endpoint": "embed", "host": "h1", "created_ms": 1000,
        "expires_ms": 61_000,
    }  # fmt: skip
    return seal(Header(**{**header, **changes}), pack(command), KEYS)


def test_reader_gives_each_command_once() -> None:
    reader = CommandReader(KEYS, "h1")
    assert reader.read(word(), 2000) == Received(START, 0, 0)
    assert reader.read(word(), 3000) is None
    assert reader.read(word(KILL), 3000) == Received(KILL, 0, 0)
    assert reader.read(word(created_ms=1001), 3000) == Received(START, 0, 0)
    with pytest.raises(EnvelopeExpired):
        reader.read(word(), 61_001)


def test_command_of_an_epoch_before_the_newest_is_stale() -> None:
    reader = CommandReader(KEYS, "h1")
    first, second = reader.read(word(epoch=4), 2000), reader.read(word(KILL, epoch=5), 2000)
    late = reader.read(word(KILL, epoch=4), 2000)

    assert first is not None
    assert second is not None
    assert (first.stale, second.stale) == (False, False)
    assert late == Received(KILL, 4, 5)
    assert late.stale
    assert reader.epoch == 5


def test_epoch_outlives_the_reader_and_the_brokers_word_does_not() -> None:
    reader = CommandReader(KEYS, "h1", epoch=5)
    by_memory = reader.read(word(epoch=4), 2000)
    by_the_broker = reader.read(word(epoch=6), 2000, known_epoch=7)
    afterwards = reader.read(word(KILL, epoch=6), 2000, known_epoch=0)

    assert by_memory == Received(START, 4, 5)
    assert by_the_broker == Received(START, 6, 7)
    assert afterwards == Received(KILL, 6, 6)
    assert reader.epoch == 6


def test_epoch_cannot_be_changed_after_signing() -> None:
    raw = word(epoch=4)
    assert raw.count(b"\xa3epo\x04") == 1
    with pytest.raises(BadSignature):
        CommandReader(KEYS, "h1").read(raw.replace(b"\xa3epo\x04", b"\xa3epo\x05"), 2000)


def test_reader_forgets_what_has_expired() -> None:
    reader = CommandReader(KEYS, "h1")
    for n in range(100):
        reader.read(word(created_ms=n), 2000)
    reader.read(word(expires_ms=200_000), 100_000)
    assert len(reader._seen) == 1


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (word(host="h2"), BadSignature),
        (word(direction=Direction.CALL), BadSignature),
        (word(endpoint="other"), WrongBinding),
        (word(expires_ms=0), MalformedEnvelope),
        (seal(Header(direction=Direction.HOST_COMMAND, endpoint="embed", host="h1", expires_ms=61_000), b"", KEYS),
         MalformedEnvelope),
    ],
    ids=["another host", "another direction", "another endpoint", "without end", "no command"],
)  # fmt: skip
def test_reader_refuses_what_is_not_for_it(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        CommandReader(KEYS, "h1").read(raw, 2000)
