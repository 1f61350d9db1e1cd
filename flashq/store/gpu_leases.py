"""Who holds which GPU, as the broker has it. Reads only; ORDER and JOIN take leases, FREE GPU gives them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.store.command import mapping, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.broker import Broker


@dataclass(frozen=True, slots=True)
class GpuLease:
    """The right to one GPU: a worker's until that has ended and the GPU was seen free."""

    uuid: str
    fence: int
    since_ms: int
    worker: str = ""
    """Empty: nobody has it."""
    endpoint: str = ""
    host: str = ""
    why: str = ""
    """Why it is kept from everybody; empty: it is not."""

    @property
    def free(self) -> bool:
        """Whether the next worker may have it."""
        return not (self.worker or self.why)


def parse(uuid: str, written: str) -> GpuLease | None:
    """A lease from its text; None where somebody else wrote that."""
    fence, _, rest = written.partition(" ")
    since, _, rest = rest.partition(" ")
    parts = rest.split(" ", 3)
    if not (fence.isdecimal() and since.isdecimal() and len(parts) == 4):
        return None
    return GpuLease(uuid, int(fence), int(since), *parts)


def parse_all(flat: list[bytes]) -> dict[str, GpuLease]:
    """All leases, from the reply to HGETALL."""
    found = (parse(uuid, written) for uuid, written in mapping(flat).items())
    return {lease.uuid: lease for lease in found if lease is not None}


def of(broker: Broker, uuids: Sequence[str]) -> dict[str, GpuLease]:
    """The leases of these GPUs; one that was never held has none. Raises BrokerError."""
    if not uuids:
        return {}
    written = broker.execute("HMGET", broker.keys.of("gpus"), *uuids)
    pairs = zip(uuids, written, strict=True)
    found = (parse(uuid, text(value)) for uuid, value in pairs if value is not None)
    return {lease.uuid: lease for lease in found if lease is not None}
