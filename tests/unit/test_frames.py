"""Frames between supervisor and executor: round trips however the stream is cut, and what is no frame."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.executor import frames
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameError, FrameType

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
FRAMES = st.builds(
    Frame, st.sampled_from(FrameType), st.dictionaries(TEXTS, VALUES, max_size=6), st.binary(max_size=300)
)


def cut(data: bytes, lengths: list[int]) -> Iterator[bytes]:
    """`data` in pieces of these lengths, then the rest."""
    for length in lengths:
        yield data[:length]
        data = data[length:]
    yield data


def raw(body: bytes, *, length: int | None = None) -> bytes:
    """A frame of any body, right or wrong."""
    return struct.pack(">I", len(body) if length is None else length) + body


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 60), max_size=30))
def test_frames_survive_any_cutting_of_the_stream(sent: list[Frame], lengths: list[int]) -> None:
    """Given frames in a stream cut anywhere, expect the same frames, in order, and nothing left."""
    decoder = FrameDecoder()

    received = [
        frame for piece in cut(b"".join(map(frames.encode, sent)), lengths) for frame in decoder.feed(piece)
    ]

    assert received == sent
    assert all(type(frame.blob) is bytes for frame in received)
    assert not decoder.mid_frame


@given(FRAMES)
def test_a_frame_is_the_same_in_one_piece_or_several(frame: Frame) -> None:
    """Given a frame, expect `pieces` to be its encoding."""
    assert b"".join(frames.pieces(*frame)) == frames.encode(frame)


@given(FRAMES, st.data())
def test_a_truncated_frame_is_not_delivered(frame: Frame, data: st.DataObject) -> None:
    """Given a frame whose end is missing, expect no frame, and that the decoder knows of it."""
    whole = frames.encode(frame)
    there = data.draw(st.integers(1, len(whole) - 1))
    decoder = FrameDecoder()

    assert decoder.feed(whole[:there]) == []
    assert decoder.mid_frame
    assert decoder.feed(whole[there:]) == [frame]


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_frame_error(data: bytes) -> None:
    """Given bytes of any kind, expect frames, waiting for more, or FrameError; nothing else."""
    decoder = FrameDecoder()
    try:
        decoded = decoder.feed(data)
    except FrameError:
        return
    assert all(isinstance(frame, Frame) for frame in decoded)


def test_the_wire_is_as_written_down() -> None:
    """Given a frame, expect the bytes that the docstring of the module describes."""
    encoded = frames.encode(Frame(FrameType.RUN, {"job": "j"}, b"payload"))
    meta = b'{"job":"j"}'
    assert encoded == struct.pack(">IBBI", 6 + len(meta) + 7, 1, 2, len(meta)) + meta + b"payload"


def test_a_newer_version_reads_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the next version of the frames, expect it to read today's beside its own, and none after."""
    frame = Frame(FrameType.RUN, {"job": "j"}, b"payload")
    last = frames.encode(frame)
    assert max(1, frames.VERSION - 1) >= frames.OLDEST
    monkeypatch.setattr(frames, "VERSION", frames.VERSION + 1)

    assert FrameDecoder().feed(last + frames.encode(frame)) == [frame, frame]
    with pytest.raises(FrameError, match="version"):
        FrameDecoder().feed(raw(struct.pack(">BBI", frames.VERSION + 1, 2, 2) + b"{}"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw(b"", length=frames.MAX_FRAME_BYTES + 1), "announces 1073741825 bytes"),
        (raw(b"", length=0xFFFFFFFF), "announces 4294967295 bytes"),
        (raw(b"abc"), "announces 3 bytes"),
        (raw(struct.pack(">BBI", 2, 1, 2) + b"{}"), "version 2"),
        (raw(struct.pack(">BBI", 1, 99, 2) + b"{}"), "unknown type 99"),
        (raw(struct.pack(">BBI", 1, 2, 3) + b"{}"), "announces 3 bytes of meta"),
        (raw(struct.pack(">BBI", 1, 2, 0)), "not JSON"),
        (raw(struct.pack(">BBI", 1, 2, 2) + b"{x"), "not JSON"),
        (raw(struct.pack(">BBI", 1, 2, 2) + b"\xff\xff"), "not JSON"),
        (raw(struct.pack(">BBI", 1, 2, 3) + b"{} "), "not one JSON object"),
        (raw(struct.pack(">BBI", 1, 2, 2) + b"[]"), "not one JSON object"),
        (raw(struct.pack(">BBI", 1, 2, 200_000) + b"[" * 200_000), "not JSON"),
        (
            raw(struct.pack(">BBI", 1, 2, 1 << 23)),
            "announces 8388608 bytes of meta; at most 4194304 are read",
        ),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, said: str) -> None:
    """Given bytes that break the protocol, expect FrameError that says how."""
    with pytest.raises(FrameError, match=said):
        FrameDecoder().feed(data)


def test_a_decoder_reads_no_longer_frame_than_it_was_told_to() -> None:
    """Given a limit, expect FrameError at the length of a longer frame, before any of it is taken in."""
    decoder = FrameDecoder(1000)
    assert decoder.feed(raw(struct.pack(">BBI", 1, 2, 2) + b"{}" + bytes(992)))
    with pytest.raises(FrameError, match="announces 1001 bytes; at most 1000 are read"):
        decoder.feed(struct.pack(">I", 1001))


def test_an_oversized_frame_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a blob over the limit, expect FrameError from the sender."""
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(FrameError, match="over the limit of 1000"):
        frames.pieces(FrameType.OUTCOME, {}, bytes(1000))


def test_a_large_frame_over_a_socket() -> None:
    """Given a frame larger than a socket holds, expect it whole, then the next, then the end."""
    ours, theirs = socket.socketpair()
    large: dict[str, Any] = {"job": "large"}
    blob = bytes(range(256)) * 4096
    decoder = FrameDecoder()
    received: list[Frame] = []
    with ours, theirs:
        theirs.setblocking(False)
        unsent = b"".join([*frames.pieces(FrameType.RUN, large, blob), *frames.pieces(FrameType.STOP, {})])
        while len(received) < 2:
            unsent = unsent[ours.send(unsent[: 1 << 16]) :] if unsent else unsent
            received += decoder.receive(theirs)
        with pytest.raises(BlockingIOError):
            decoder.receive(theirs)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            decoder.receive(theirs)

    assert received == [Frame(FrameType.RUN, large, blob), Frame(FrameType.STOP, {})]


def test_a_stream_that_ends_in_the_middle_of_a_frame() -> None:
    """Given a peer that dies while it sends, expect EOFError, not a frame."""
    ours, theirs = socket.socketpair()
    decoder = FrameDecoder()
    with theirs:
        with ours:
            ours.sendall(frames.encode(Frame(FrameType.STOP, {}, b"blob"))[:-1])
        assert decoder.receive(theirs) == []
        with pytest.raises(EOFError, match="in the middle"):
            decoder.receive(theirs)


OUTCOME = {"job": "j", "fence": 1, "status": "ok", "encoding": "pickle", "execution_ms": 0.5}
ERROR = {"kind": "exception", "type": "ValueError", "message": "", "traceback": ""}


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        (FrameType.OUTCOME, OUTCOME),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": ERROR, "of a later version": 1}),
        (FrameType.READY, {"pid": 1, "python": "3.11.9", "boot_ms": 1, "import_ms": 0.1, "setup_ms": 0}),
        (FrameType.FAILED, {"type": "E", "message": "", "traceback": "", "types": ["E"], "machine": False}),
    ],
)
def test_what_an_executor_may_say(kind: FrameType, meta: dict[str, Any]) -> None:
    """Given the frames of an executor, expect them to pass."""
    frames.check(Frame(kind, meta))


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        (FrameType.OUTCOME, {}),
        (FrameType.OUTCOME, {**OUTCOME, "job": None}),
        (FrameType.OUTCOME, {**OUTCOME, "fence": "1"}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "perhaps"}),
        (FrameType.OUTCOME, {**OUTCOME, "encoding": "failure"}),
        (FrameType.OUTCOME, {**OUTCOME, "execution_ms": float("nan")}),
        (FrameType.OUTCOME, {**OUTCOME, "execution_ms": float("inf")}),
        (FrameType.OUTCOME, {**OUTCOME, "execution_ms": -1}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error"}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "types": [1]}}),
        (FrameType.OUTCOME, {**OUTCOME, "execution_ms": 10**400}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "message": "\ud800"}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "traceback": "\udfff"}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "type": "\ud800"}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "types": ["\ud800"]}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "type": "E" * 1001}}),
        (FrameType.OUTCOME, {**OUTCOME, "status": "error", "error": {**ERROR, "types": ["E"] * 101}}),
        (FrameType.FAILED, {**ERROR, "message": "\ud800", "machine": False}),
        (FrameType.FAILED, {**ERROR, "machine": "yes"}),
        (FrameType.READY, {}),
        (FrameType.FAILED, {"type": 1}),
        (FrameType.RUN, {"job": "j"}),
    ],
)
def test_what_an_executor_may_not_say(kind: FrameType, meta: dict[str, Any]) -> None:
    """Given a frame that user code made up, expect FrameError."""
    with pytest.raises(FrameError):
        frames.check(Frame(kind, meta))
