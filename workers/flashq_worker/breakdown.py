"""Where the time of a job went that waited for the start of what runs it: pure.

The parts follow each other without a gap, so that they sum to what the job waited:

    claim        submitted → a worker is there that knows what to load
    environment  → the environment was looked up, or built
    fork, spawn  → the executor begins to load
    imports      → the function is unpickled, its imports included
    setup        → the instance of a class is made; the executor is ready
    first_job    → the job has run
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Start:
    """One start of an executor. Times are seconds of one clock."""

    known_at: float
    """What to load is known."""
    environment_at: float | None = None
    """There is the environment that it runs in."""
    how: str = "spawn"
    import_s: float = 0.0
    setup_s: float = 0.0
    ready_at: float | None = None

    def ready(self, import_ms: float, setup_ms: float, *, at: float) -> None:
        """It is ready now; the executor says how long two parts of that took."""
        self.import_s, self.setup_s, self.ready_at = import_ms / 1000, setup_ms / 1000, at

    @property
    def environment_s(self) -> float:
        """How long the environment took."""
        return 0.0 if self.environment_at is None else self.environment_at - self.known_at

    def parts(self, submitted_at: float, ended_at: float) -> dict[str, float]:
        """By part, in ms, what a job waited for; none where this start was over when it was submitted.

        What was over by then counts as nothing. What the executor says of itself is taken for no more than there was.
        """
        if self.environment_at is None or self.ready_at is None or submitted_at >= self.ready_at:
            return {}
        imported_at = max(self.environment_at, self.ready_at - self.setup_s)
        ends = {
            "claim": self.known_at,
            "environment": self.environment_at,
            self.how: max(self.environment_at, imported_at - self.import_s),
            "imports": imported_at,
            "setup": self.ready_at,
            "first_job": ended_at,
        }
        found, since = {}, submitted_at
        for part, until in ends.items():
            found[part] = round(max(0.0, until - since) * 1000, 3)
            since = max(since, until)
        return found
