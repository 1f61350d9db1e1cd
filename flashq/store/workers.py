"""What a worker's record in the broker says, by names of this program: the fields of its hash are spelt here alone.

(What the scripts themselves note there, they spell in Lua.) A record may be gone, or scribbled in by others: what it
lacks is '' or None here, and a number that is none raises ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.command import Value


def facts(
    *,
    host: str | None = None,
    gpus: Sequence[str] | None = None,
    cpus: float | None = None,
    memory_bytes: int | None = None,
    keys: Sequence[str] | None = None,
    takes_ms: int | None = None,
    resources: str | None = None,
    revision: str | None = None,
    service_ms: float | None = None,
    cold_ms: float | None = None,
    why: str | None = None,
    building_ms: int | None = None,
) -> dict[str, Value]:
    """Fields of a worker's hash, those that are given.

    `gpus`: UUIDs; `keys`: ids of the signing keys it has; `takes_ms`: it takes jobs with the ring of its bell, under a
    lease of so long; `resources`: digest of the environment and resources it was made for; `service_ms`, `cold_ms`:
    what its jobs and its start take; `why`: why it was ordered; `building_ms`: since when its environment has been
    under way, 0 where none is.
    """
    given: dict[str, Value | None] = {
        "fq_host": host,
        "fq_gpus": None if gpus is None else ",".join(gpus),
        "fq_cpus": cpus,
        "fq_memory": memory_bytes,
        "fq_keys": None if keys is None else ",".join(keys),
        "fq_takes": takes_ms,
        "fq_env": resources,
        "fq_rev": revision,
        "fq_service_ms": service_ms,
        "fq_cold_ms": cold_ms,
        "fq_why": why,
        "fq_building": building_ms,
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as the broker knows it. `fields`: its hash, or some of it."""

    id: str
    expires_ms: int
    fields: dict[str, str] = field(default_factory=dict)

    def _number(self, name: str) -> float | None:
        value = self.fields.get(name)
        if not value:
            return None
        if not math.isfinite(number := float(value)):
            raise ValueError(f"{name} is {value[:20]!r}")
        return number

    @property
    def endpoint(self) -> str:
        return self.fields.get("fq_ep", "")

    @property
    def host(self) -> str:
        return self.fields.get("fq_host", "")

    @property
    def state(self) -> str:
        return self.fields.get("fq_state", "")

    @property
    def since_ms(self) -> float | None:
        """When it entered its state."""
        return self._number("fq_since")

    @property
    def beat_ms(self) -> float | None:
        """Its last heartbeat."""
        return self._number("fq_beat")

    @property
    def ordered_ms(self) -> float | None:
        """When it was ordered; None: it was started by hand."""
        return self._number("fq_ordered")

    @property
    def revision(self) -> str:
        return self.fields.get("fq_rev", "")

    @property
    def resources(self) -> str:
        return self.fields.get("fq_env", "")

    @property
    def draining(self) -> bool:
        return self.fields.get("fq_drain") == "1"

    @property
    def lends(self) -> bool:
        """Whether all its jobs wait for what they called."""
        return self.fields.get("fq_lends") == "1"

    @property
    def jobs(self) -> int:
        """How many it holds."""
        return int(self.fields.get("fq_jobs") or 0)

    @property
    def gpus(self) -> tuple[str, ...]:
        return tuple(uuid for uuid in self.fields.get("fq_gpus", "").split(",") if uuid)

    @property
    def cpus(self) -> float:
        return self._number("fq_cpus") or 0.0

    @property
    def memory_bytes(self) -> int:
        return int(self.fields.get("fq_memory") or 0)

    @property
    def service_ms(self) -> float | None:
        return self._number("fq_service_ms")

    @property
    def cold_ms(self) -> float | None:
        return self._number("fq_cold_ms")

    @property
    def building_ms(self) -> float | None:
        """Since when an environment has been under way for it; None: none is."""
        return self._number("fq_building") or None

    @property
    def reported(self) -> bool:
        """Whether its process has reported in."""
        return bool(self.fields.get("pid"))

    @property
    def counts(self) -> bool:
        """Whether the broker still counts on it: it has a record, and that is not closed."""
        return bool(self.endpoint) and not self.fields.get("death")
