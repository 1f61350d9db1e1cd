"""What the broker's acknowledgement of a call is worth, by how the broker is set up. Pure.

| word | an acknowledged call survives |
|---|---|
| `memory` | nothing that is promised; with an append-only file (`everysec`) the death of any process, not a power cut |
| `fsync` | a power cut: it was on the disk (append-only file, `appendfsync always`) |
| `fsync+replica` | that, and the loss of the machine: a replica has confirmed that it has it |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

OLDEST = {"redis": (7, 0), "valkey": (8, 0)}
"""The versions that flashq needs at least."""


class Durability(StrEnum):
    """From the least to the most."""

    MEMORY = "memory"
    FSYNC = "fsync"
    REPLICA = "fsync+replica"

    @property
    def rank(self) -> int:
        return list(Durability).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a broker's server says of itself; None or '' where it did not say."""

    kind: str = ""
    """ "redis" or "valkey"."""
    version: str = ""
    run_id: str = ""
    """Another one after each start: of this server, or of the one that took its place."""
    role: str = ""
    aof: bool | None = None
    """Whether it has an append-only file."""
    fsync: str | None = None
    """Its `appendfsync`; None where this user may not read its configuration."""
    writes_fail: bool = False
    """Whether the last write to its append-only file failed."""
    rewrite_fails: bool = False
    """Whether it could not write that file anew, in short."""
    snapshot_fails: bool = False
    """Whether its last snapshot (RDB) failed."""
    policy: str | None = None
    maxmemory: int | None = None
    used_memory: int | None = None
    machine_memory: int | None = None
    """Of the machine that it runs on."""
    replicas: int | None = None
    """How many of its replicas are connected."""

    @property
    def outdated(self) -> bool:
        """Whether it is older than what flashq needs, as far as is known."""
        return self.kind in OLDEST and len(self._numbers) > 0 and self._numbers[:2] < OLDEST[self.kind]

    @property
    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".") if part.isdecimal())

    def durability(self, *, confirmed: bool) -> Durability | None:
        """What its acknowledgement is worth; None where that cannot be told.

        `confirmed`: each acknowledgement waits for a replica.
        """
        if self.aof is False:
            return Durability.MEMORY
        if self.aof is None or self.fsync is None:
            return None
        if self.fsync != "always":
            return Durability.MEMORY
        return Durability.REPLICA if confirmed else Durability.FSYNC

    def described(self) -> str:
        """How it keeps what it has, for people."""
        if self.aof is None:
            return "it does not say whether it has an append-only file"
        if not self.aof:
            return "no append-only file: its end loses everything"
        match self.fsync:
            case None:
                return "append-only file; this user may not read how often it is synced"
            case "always":
                return "append-only file, synced before each acknowledgement"
            case "everysec":
                return (
                    "append-only file, synced every second: a power cut may lose the last one, and a kill while a sync"
                    " is slow up to two"
                )
        return f"append-only file, appendfsync {self.fsync}: a power cut may lose what the system had not written"

    def lossy(self) -> list[str]:
        """Why it may lose what it acknowledged though nothing but itself fails; [] where it should not."""
        found = []
        if self.aof is False:
            found.append("it has no append-only file (set `appendonly yes`)")
        if self.policy not in (None, "", "noeviction"):
            found.append(
                f"under memory pressure it evicts keys (set `maxmemory-policy noeviction`, not {self.policy})"
            )
        return found

    def lacks(self, wanted: Durability | None) -> str:
        """Why it cannot give the durability that is wanted; '' where it can, or does not say."""
        if wanted is None or wanted is Durability.MEMORY:
            return ""
        given = self.durability(confirmed=wanted is Durability.REPLICA)
        if given is not None and given.rank < wanted.rank:
            return f"FLASHQ_DURABILITY={wanted}, and the broker gives {given}: {self.described()}"
        return ""
