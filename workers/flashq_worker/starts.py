"""What follows when a worker that has been ready fails to start other code, or the same once more: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from flashq_worker.pacing import Backoff

_TRIES = 2  # of what would fail again; as many as make the waiting jobs fail where workers never get ready
_MOST_TRIES = 5  # of what may have been the machine's trouble
_FORGET_S = 60.0


class Next(Enum):
    AGAIN = "again"  # after a pause
    REFUSE = "refuse"  # its jobs fail, and it is not started again for a while
    LEAVE = "leave"  # this machine is in trouble


@dataclass(slots=True)
class Starts:
    """Failed starts in a row, of one revision. Times are seconds of one clock, given by the caller."""

    revision: str = ""
    failures: int = 0
    pause: Backoff = field(default_factory=lambda: Backoff(0.5, 30.0))
    _refused: str = ""
    _refused_version: int = 0
    _forget_at: float = 0.0

    def succeeded(self) -> None:
        """A revision has loaded."""
        self.revision, self.failures = "", 0
        self.pause.succeeded()

    def failed(self, revision: str, *, deterministic: bool, version: int, now: float) -> Next:
        """A start failed. `deterministic`: it would again; `version`: the registration that it was of."""
        if revision != self.revision:
            self.succeeded()
        self.revision = revision
        self.failures += 1
        self.pause.failed(now)
        if deterministic and self.failures >= _TRIES:
            self.succeeded()
            self._refused, self._refused_version, self._forget_at = revision, version, now + _FORGET_S
            return Next.REFUSE
        return Next.LEAVE if self.failures >= _MOST_TRIES else Next.AGAIN

    def refuses(self, revision: str, *, now: float) -> bool:
        """Whether starting `revision` was given up a short while ago, unless it was registered anew since."""
        return revision == self._refused and now < self._forget_at

    def refused_at(self, version: int) -> bool:
        """Whether the registration given up is still the current one."""
        return version == self._refused_version
