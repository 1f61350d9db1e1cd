"""What an autoscaler tells a host to do: the payload of a signed host command (msgpack). Pure.

The envelope around it says for which host it is, from when until when; a reader takes unknown fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import msgpack

from flashq.errors import MalformedEnvelope

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start this worker; it is on record in the broker already. Sizes in bytes; a zero is "not limited"."""

    worker: str
    endpoint: str
    revision: str = ""
    environment: str = ""
    """Digest of environment and resources, as in the worker's record."""
    gpu_uuids: tuple[str, ...] = ()
    """The GPUs it is bound to; empty: it sees none."""
    cpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill what is left of this worker: the broker has given it up."""

    worker: str


HostCommand: TypeAlias = StartWorker | KillWorker
_KINDS: dict[str, type[StartWorker] | type[KillWorker]] = {"start": StartWorker, "kill": KillWorker}
_NUMBERS = ("cpus", "memory_bytes")


def pack(command: HostCommand) -> bytes:
    """The payload of a command's envelope."""
    name = next(name for name, kind in _KINDS.items() if isinstance(command, kind))
    return bytes(msgpack.packb({"op": name, **asdict(command)}))


def unpack(payload: bytes) -> HostCommand:
    """Read `pack`'s bytes. Raises MalformedEnvelope where they are no command known here."""
    try:
        fields = msgpack.unpackb(payload, raw=False, max_map_len=32, max_array_len=256, max_ext_len=0)
        kind = _KINDS[fields["op"]]
        values = {name: _value(name, fields[name]) for name in kind.__slots__ if name in fields}
        return kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise MalformedEnvelope(f"not a command for a host: {type(error).__name__}: {error}") from None


def _value(name: str, value: Any) -> Any:
    if name == "gpu_uuids":
        if not isinstance(value, list) or not all(isinstance(uuid, str) for uuid in value):
            raise TypeError("gpu_uuids must be a list of strings")
        return tuple(value)
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
            raise TypeError(f"{name} must be a number")
        return float(value) if name == "cpus" else int(value)
    if not isinstance(value, str) or not value.isascii() or len(value) > 200 or "/" in value:
        raise TypeError(f"{name} must be a short string")
    return value
