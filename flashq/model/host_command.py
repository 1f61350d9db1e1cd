"""What an autoscaler tells a host to do: the payload of a signed host command (msgpack). Pure.

The envelope around it says for which host it is, from when until when; a reader takes unknown fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from flashq.errors import MalformedEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 4 * 2**20
"""A revision record may be in it."""
CONTAINER_ENGINE = "container engine"
"""Required of a host by an endpoint with an image."""


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
    requires: tuple[str, ...] = ()
    """What the host has to have beside: "package NAME", "folder PATH", "container engine"."""


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill what is left of this worker: the broker has given it up."""

    worker: str


@dataclass(frozen=True, slots=True)
class PrepareRevision:
    """Make everything ready that a deployed revision needs: the word of whoever deploys, not of the autoscaler."""

    endpoint: str
    revision: str
    record: bytes
    """The signed revision record: it is not on record in the broker yet."""


HostCommand: TypeAlias = StartWorker | KillWorker | PrepareRevision
_KINDS: dict[str, type[StartWorker] | type[KillWorker] | type[PrepareRevision]] = {
    "start": StartWorker,
    "kill": KillWorker,
    "prepare": PrepareRevision,
}
_NUMBERS = ("cpus", "memory_bytes")


def required(resources: Mapping[str, Any]) -> tuple[str, ...]:
    """What a spec's `resources` require of a host beside cores, memory and GPUs, as `StartWorker.requires` says it."""
    packages = tuple(f"package {name}" for name in resources.get("packages") or ())
    volume = resources.get("volume")
    folders = (f"folder {volume}",) if volume else ()
    return (*packages, *folders, CONTAINER_ENGINE) if resources.get("image") else (*packages, *folders)


def pack(command: HostCommand) -> bytes:
    """The payload of a command's envelope."""
    name = next(name for name, kind in _KINDS.items() if isinstance(command, kind))
    fields = asdict(command)
    if not fields.get("requires"):  # as before there was such a field
        fields.pop("requires", None)
    return bytes(msgpack.packb({"op": name, **fields}))


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
    if name == "record":
        if not isinstance(value, bytes):
            raise TypeError("record must be bytes")
        return value
    if name == "gpu_uuids":
        if not isinstance(value, list) or not all(isinstance(uuid, str) for uuid in value):
            raise TypeError("gpu_uuids must be a list of strings")
        return tuple(value)
    if name == "requires":
        if not isinstance(value, list) or not all(isinstance(one, str) and len(one) < 1200 for one in value):
            raise TypeError("requires must be a list of strings")
        return tuple(value)
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
            raise TypeError(f"{name} must be a number")
        return float(value) if name == "cpus" else int(value)
    if not isinstance(value, str) or not value.isascii() or len(value) > 200 or "/" in value:
        raise TypeError(f"{name} must be a short string")
    return value
