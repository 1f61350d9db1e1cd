"""Which environments a host keeps no longer: those unused for long, and the longest unused while there are too many.

Pure. Whether one is in use is for whoever removes it to find out (`store`): it is passed over then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

FRESH_S = 600.0
"""What was used so shortly ago stays, whatever the limits say: the next worker may be on its way to it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows."""

    keep_s: float = 30 * 86_400
    """How long an unused one is kept."""
    total_bytes: int = 50 << 30
    """How much all of them may take."""


@dataclass(frozen=True, slots=True)
class Aged:
    """An environment, as far as its end is concerned."""

    digest: str
    size_bytes: int
    used_at: float
    """When it was last seen in use (seconds since the epoch)."""


@dataclass(frozen=True, slots=True)
class Expired:
    """One to be removed, and why."""

    digest: str
    reason: str


def expired(environments: Iterable[Aged], limits: Limits, now: float) -> tuple[Expired, ...]:
    """Those to be removed, the longest unused first."""
    oldest_first = sorted(environments, key=lambda one: (one.used_at, one.digest))
    total = sum(one.size_bytes for one in oldest_first)
    found: list[Expired] = []
    for one in oldest_first:
        unused_s = now - one.used_at
        if unused_s < FRESH_S:
            break
        if unused_s > limits.keep_s:
            found.append(Expired(one.digest, f"unused for {unused_s / 86_400:.1f} days"))
        elif total > limits.total_bytes:
            found.append(
                Expired(
                    one.digest,
                    f"all take {total / 2**30:.1f} of {limits.total_bytes / 2**30:.1f} GiB,"
                    f" and it is unused for {unused_s / 3600:.1f} h",
                )
            )
        else:
            break
        total -= one.size_bytes
    return tuple(found)
