"""How many jobs a worker holds, and for how long: pure decisions of the supervisor.

Jobs so short that fetching the next one would take longer than running it are claimed a few ahead. A claimed
job never waits long for its turn: once the job before it has run for `PATIENCE_S`, those behind it go back to
the queue, where an idle worker may take them.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_S = 0.02
_AHEAD_S = 0.004  # work held ahead, in expected running time
_MOST_AHEAD = 32
_WEIGHT = 0.2


@dataclass(slots=True)
class Pace:
    """An estimate of how long jobs run here, and what follows from it."""

    service_s: float | None = None

    def observe(self, execution_s: float) -> None:
        """Take a finished job into the estimate; a longer one counts at once, shorter ones gradually."""
        if self.service_s is None or execution_s > self.service_s:
            self.service_s = execution_s
        else:
            self.service_s += _WEIGHT * (execution_s - self.service_s)

    @property
    def ahead(self) -> int:
        """How many jobs to hold beyond those that run."""
        if self.service_s is None:
            return 0
        return min(_MOST_AHEAD, int(_AHEAD_S / max(self.service_s, 1e-6)))
