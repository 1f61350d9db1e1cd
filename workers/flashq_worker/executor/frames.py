"""The frames that supervisor and executor exchange over a stream socket, and their decoder.

A frame on the wire::

    u32 big-endian  length of everything that follows
    u8              version (1)
    u8              type, see FrameType
    u32 big-endian  length of the meta part
    bytes           meta: a JSON object, UTF-8
    bytes           blob: the rest

Pure but for `receive` and `send`, which make one system call per small frame.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

VERSION = 1
OLDEST = 1
"""The oldest version that is read: at least the one before VERSION, so that an upgrade needs no pause."""
MAX_FRAME_BYTES = 1 << 30
"""The largest length a frame may announce; a longer one is a protocol error, not an allocation."""
MAX_META_BYTES = 1 << 22
"""The largest meta part that is read: texts are cut to 64 Ki characters each before they are sent."""
MOST_OPTIONS = 20
"""Of one call."""
MOST_NAMES, LONGEST_NAME = 100, 1000
"""How many classes of an exception are named, and in how many characters each."""

_LENGTH = struct.Struct(">I")
_INNER = struct.Struct(">BBI")  # version, type, meta length
_PREFIX = struct.Struct(">IBBI")  # all of it
_RECEIVE_BYTES = 1 << 16
_JOIN_BYTES = 1 << 16  # blobs up to this are copied behind their head, to leave in one system call

_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_decode_json = json.JSONDecoder().raw_decode  # decode() without its search for blanks around the value


class FrameType(IntEnum):
    """What a frame says. Numbers are part of the wire: never reused, new ones appended."""

    LOAD = 1
    """Supervisor: load a function. Meta mode ("sync", "async", "generator", "async_generator"), concurrency, endpoint,
    revision, python, limit (bytes of one result), targets? (of a class: its methods, each with its mode), batch_ms?
    (how long a batch is gathered), texts? (lines for tracebacks, each with its file and number: [file, number, lines]),
    sources (a folder of modules, or ""), imports (a file to note modules in, or ""), types_at? (where in the blob the
    types of parameters begin); blob: the function, or what makes the instance."""
    RUN = 2
    """Supervisor: run a job. Meta job, fence, attempt, encoding, target? (of a class: the method), credit? (chunks
    it may send); blob: payload."""
    CANCEL = 3
    """Supervisor: interrupt a job, or drop it where it has not begun. Meta job, fence, reason ("cancel", "timeout", or
    "give-back": leave it alone if it has begun)."""
    STOP = 4
    """Supervisor: finish what came before, let go of the instance of a class, then exit."""
    CREDIT = 5
    """Supervisor: a job that yields may send further chunks. Meta job, fence, chunks (how many; a large one counts for
    several, see `chunk_cost`)."""
    REPLY = 6
    """Supervisor: what became of a job's CALL. Meta call, what: "accepted" (job, cold), "refused" (error, message) or
    "ended" (state, encoding, failure?); blob: value or exception."""
    READY = 16
    """Executor: loaded. Meta pid, python, boot_ms, import_ms (to unpickle the function), setup_ms (an instance)."""
    FAILED = 17
    """Executor: loading raised; it exits. Meta type, message, traceback, machine (whether that is the machine's
    trouble, see `outcome.of_machine`), types?"""
    OUTCOME = 18
    """Executor: a job ended. Meta job, fence, status ("ok", "error", "cancelled", "timeout", or "skipped": given back
    without having begun), encoding, execution_ms, error?; blob: value or exception."""
    CHUNK = 19
    """Executor: a job yielded a value. Meta job, fence, number (from 1), encoding; blob: the value."""
    PROGRESS = 20
    """Executor: how far a job is. Meta job, fence; blob: JSON."""
    OUTPUT = 21
    """Executor: a job that runs beside others wrote lines. Meta job, fence; blob: their text."""
    CALL = 22
    """Executor: a job calls an endpoint. Meta job, fence, call (its number), endpoint, target, options, detached (it
    goes on where the job is stopped); blob: the arguments."""
    DROP = 23
    """Executor: what a job called is to be stopped. Meta job, fence, call."""
    WAITING = 24
    """Executor: a job begins, or ceases, to wait for what it called. Meta job, fence, waiting."""


_TYPES = {int(kind): kind for kind in FrameType}


class FrameError(ValueError):
    """The bytes are no frame of this protocol. The stream cannot be used any further."""


class Frame(NamedTuple):
    """One decoded frame."""

    type: FrameType
    meta: dict[str, Any]
    blob: bytes = b""


def head(kind: FrameType, meta: Mapping[str, Any], blob_bytes: int) -> bytes:
    """What goes before a blob of `blob_bytes`. Raises FrameError where the frame would be too long."""
    text = _encode_json(meta).encode()
    length = _INNER.size + len(text) + blob_bytes
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _PREFIX.pack(length, VERSION, kind, len(text)) + text


def pieces(kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> list[bytes]:
    """The frame's bytes: one piece where the blob is small, else head and blob, so that it is not copied."""
    start = head(kind, meta, len(blob))
    return [start + blob] if len(blob) <= _JOIN_BYTES else [start, blob]


def encode(frame: Frame) -> bytes:
    """The whole frame as one string of bytes."""
    return head(frame.type, frame.meta, len(frame.blob)) + frame.blob


def send(sock: socket, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"") -> None:
    """Send one frame on a blocking socket."""
    for piece in pieces(kind, meta, blob):
        sock.sendall(piece)


_NUMBER = (int, float)
_META: dict[FrameType, dict[str, type | tuple[type, ...]]] = {
    FrameType.READY: {
        "pid": int,
        "python": str,
        "boot_ms": _NUMBER,
        "import_ms": _NUMBER,
        "setup_ms": _NUMBER,
    },
    FrameType.FAILED: {"type": str, "message": str, "traceback": str, "machine": bool},
    FrameType.OUTCOME: {"job": str, "fence": int, "status": str, "encoding": str, "execution_ms": _NUMBER},
    FrameType.CHUNK: {"job": str, "fence": int, "number": int, "encoding": str},
    FrameType.PROGRESS: {"job": str, "fence": int},
    FrameType.OUTPUT: {"job": str, "fence": int},
    FrameType.CALL: {
        "job": str,
        "fence": int,
        "call": int,
        "endpoint": str,
        "target": str,
        "options": dict,
        "detached": bool,
    },
    FrameType.DROP: {"job": str, "fence": int, "call": int},
    FrameType.WAITING: {"job": str, "fence": int, "waiting": bool},
}
_ERROR_META: dict[str, type | tuple[type, ...]] = {"kind": str, "type": str, "message": str, "traceback": str}
_STATUSES = frozenset({"ok", "error", "cancelled", "timeout", "skipped"})
_ENCODINGS = frozenset({"pickle", "json"})
_MOST_MS = 1e15


def check(frame: Frame) -> None:
    """Raises FrameError where an executor's frame is none that it may send: user code shares its process."""
    meta = frame.meta
    wanted = _META.get(frame.type)
    if wanted is None:
        raise FrameError(f"a {frame.type.name} frame, which is not an executor's to send")
    _check_fields(frame.type.name, meta, wanted)
    if frame.type is FrameType.OUTCOME:
        if meta["status"] not in _STATUSES or meta["encoding"] not in _ENCODINGS:
            raise FrameError(
                f"an OUTCOME of status {meta['status']!r:.50}, encoding {meta['encoding']!r:.50}"
            )
        if meta["status"] == "error":
            if not isinstance(meta.get("error"), dict):
                raise FrameError("an OUTCOME of status 'error' without its error")
            _check_fields("OUTCOME", meta["error"], _ERROR_META)
            _check_texts(meta["error"])
    elif frame.type is FrameType.FAILED:
        _check_texts(meta)
    elif frame.type is FrameType.CALL:
        _check_call(meta)


def _check_call(meta: Mapping[str, Any]) -> None:
    if len(meta["options"]) > MOST_OPTIONS:
        raise FrameError(f"a CALL with {len(meta['options'])} options")
    try:
        "".join((meta["endpoint"], meta["target"], *meta["options"])).encode()
    except UnicodeEncodeError as wrong:
        raise FrameError(f"a CALL whose text is none: {wrong.reason}") from None


def _check_fields(name: str, meta: Mapping[str, Any], wanted: Mapping[str, type | tuple[type, ...]]) -> None:
    for field, kind in wanted.items():
        value = meta.get(field)
        timed = kind is _NUMBER and isinstance(value, int | float)
        if not isinstance(value, kind) or (timed and not 0 <= value <= _MOST_MS):  # type: ignore[operator]
            raise FrameError(f"the meta of a {name} frame has {field}={value!r:.50}")


def _check_texts(error: Mapping[str, Any]) -> None:
    names = error.get("types", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FrameError(f"an error whose types are {names!r:.50}")
    if len(names) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in (*names, error["type"])):
        raise FrameError("an error whose types are more, or longer, than any")
    try:
        "".join((*names, error["type"], error["message"], error["traceback"])).encode()
    except UnicodeEncodeError as wrong:  # JSON can say what no text is
        raise FrameError(f"an error whose text is none: {wrong.reason}") from None


def chunk_cost(size: int) -> int:
    """For how many a CHUNK with a blob of this size counts: one, and one more for each full MiB."""
    return 1 + (size >> 20)


class FrameDecoder:
    """Turns a stream of bytes, cut anywhere, into frames no longer than `limit`.

    A frame that has begun to arrive is collected in a buffer into which `receive` reads directly. The buffer
    grows with what arrives, never by what was announced: a length costs its sender nothing.
    """

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._start = b""  # fewer than 4 bytes: a length that is not complete
        self._length: int | None = None  # of the frame that is not complete
        self._body = bytearray()  # what there is of it, and room for more
        self._filled = 0  # how much of that is not room

    @property
    def mid_frame(self) -> bool:
        """Whether a part of a frame has arrived and the rest has not."""
        return self._length is not None or bool(self._start)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`. Raises FrameError; the stream is then of no more use."""
        frames: list[Frame] = []
        if self._length is not None:
            taken = data[: self._length - self._filled]
            self._body[self._filled :] = taken
            if not self._completed(len(taken), frames):
                return frames
            data = data[len(taken) :]
        elif self._start:
            data = self._start + data
            self._start = b""
        position, end = 0, len(data)
        while end - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, position)
            if not _INNER.size <= length <= self._limit:
                raise FrameError(f"a frame announces {length} bytes; at most {self._limit} are read")
            position += _LENGTH.size
            if end - position < length:
                self._length = length
                self._body = bytearray(data[position:])
                self._filled = end - position
                return frames
            frames.append(_parse(data[position : position + length]))
            position += length
        self._start = data[position:]
        return frames

    def receive(self, sock: socket, flags: int = 0) -> list[Frame]:
        """Read once from `sock`; the frames this completed, often none while a large one arrives.

        Raises EOFError at the end of the stream (also in the middle of a frame: the peer died), FrameError,
        and BlockingIOError where `flags` or the socket say not to wait and nothing is there.
        """
        if self._length is None:
            data = sock.recv(_RECEIVE_BYTES, flags)
            if not data:
                raise EOFError("the other side closed the stream")
            return self.feed(data)
        if self._filled == len(self._body):
            room = max(self._filled, _RECEIVE_BYTES)  # doubling: no byte is moved more than once or twice
            self._body.extend(bytes(min(room, self._length - self._filled)))
        with memoryview(self._body) as view:
            count = sock.recv_into(view[self._filled :], 0, flags)
        if not count:
            raise EOFError("the other side closed the stream in the middle of a frame")
        frames: list[Frame] = []
        self._completed(count, frames)
        return frames

    def _completed(self, count: int, frames: list[Frame]) -> bool:
        """Account for `count` more bytes of the body; where that was the last, append its frame."""
        self._filled += count
        if self._filled != self._length:
            return False
        self._length = None
        body, self._body = self._body, bytearray()
        frames.append(_parse(body))
        return True


def _parse(body: bytes | bytearray) -> Frame:
    version, number, meta_bytes = _INNER.unpack_from(body)
    if not OLDEST <= version <= VERSION:
        raise FrameError(f"a frame of version {version}; this side speaks version {VERSION}")
    kind = _TYPES.get(number)
    if kind is None:
        raise FrameError(f"a frame of unknown type {number}")
    blob_at = _INNER.size + meta_bytes
    if meta_bytes > MAX_META_BYTES:
        raise FrameError(f"a frame announces {meta_bytes} bytes of meta; at most {MAX_META_BYTES} are read")
    if blob_at > len(body):
        raise FrameError(f"a frame of {len(body)} bytes announces {meta_bytes} bytes of meta")
    try:
        text = body[_INNER.size : blob_at].decode()
        meta, end = _decode_json(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the meta of a {kind.name} frame is not JSON: {error}") from error
    if end != len(text) or not isinstance(meta, dict):
        raise FrameError(f"the meta of a {kind.name} frame is not one JSON object")
    return Frame(kind, meta, body[blob_at:] if isinstance(body, bytes) else bytes(memoryview(body)[blob_at:]))
