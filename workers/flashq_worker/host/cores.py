"""Which cores a worker runs on: as many as it counts for, those that the fewest others have. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def choose(cpus: float, available: Iterable[int], taken: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """Cores for a worker that counts for `cpus`, beside others that have theirs; () where it may run on all.

    A part of a core is a whole one here. Where more is promised than there is, cores are shared evenly.
    """
    free = sorted(available)
    count = math.ceil(cpus)
    if not 0 < count < len(free):
        return ()
    used = Counter(core for cores in taken for core in cores)
    return tuple(sorted(sorted(free, key=lambda core: (used[core], core))[:count]))
