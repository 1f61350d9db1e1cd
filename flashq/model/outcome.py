"""What a job ended with, as it travels: a value (opaque bytes) or a failure (a msgpack map of plain text).

A failure may carry the pickled exception as opaque bytes; only the codec unpickles it, after the outcome's
signature was verified. Failures made by the broker itself (a reaper's) carry no envelope and no pickle.
Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from flashq.errors import MalformedEnvelope

if TYPE_CHECKING:
    from flashq.model.lifecycle import JobState

FAILURE_ENCODING = "failure"
MAX_TEXT = 64 * 1024


class FailureKind(StrEnum):
    """Why there is no value. The kind decides which error the caller gets, and who may try again."""

    EXCEPTION = "exception"  # the function raised
    UNSERIALIZABLE = "unserializable"  # its result could not be encoded
    CRASH = "crash"  # the executor died under it
    LOST = "lost"  # the worker or its host vanished, more often than allowed
    LOST_ONCE = "lost_once"  # the same of a job that may begin only once
    TIMEOUT = "timeout"  # past its execution timeout
    EXPIRED = "expired"  # past its ttl, never run
    CANCELLED = "cancelled"
    REFUSED = "refused"  # the worker would not run it
    START = "start"  # the endpoint cannot start


@dataclass(frozen=True, slots=True)
class Failure:
    """A job's failure. `type` is the qualified name of the user's exception class, if it was one."""

    kind: FailureKind
    message: str
    type: str = ""
    traceback: str = ""
    exception: bytes = b""  # pickled; empty where it could not be
    log: str = ""  # last lines of output

    def pack(self) -> bytes:
        """msgpack bytes; texts longer than 64 KiB keep their end."""
        import msgpack  # here, since executors know failures and need not have it

        fields = asdict(self)
        for name in ("message", "traceback", "log"):
            fields[name] = fields[name][-MAX_TEXT:]
        return bytes(msgpack.packb({name: value for name, value in fields.items() if value}))

    @classmethod
    def unpack(cls, raw: bytes) -> Failure:
        """Raises MalformedEnvelope where `raw` is no failure."""
        import msgpack

        try:
            fields = msgpack.unpackb(raw, raw=False, max_map_len=16, max_array_len=0, max_ext_len=0)
            known = {name: fields[name] for name in cls.__slots__ if name in fields}
            return cls(**{**known, "kind": FailureKind(fields["kind"]), "message": fields.get("message", "")})
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise MalformedEnvelope(f"not a failure record: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, as the broker tells it.

    `outcome` is signed and not yet verified; empty where the broker itself ended the job. `reason` is a word
    (a `FailureKind`, or empty for success), `text` is for people. `generation`: which of the job's ended so.
    """

    state: JobState
    fence: int
    reason: str = ""
    text: str = ""
    outcome: bytes = b""
    generation: int = 0
