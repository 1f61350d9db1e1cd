"""How many jobs a worker holds, and for how long: pure decisions of the supervisor.

Jobs so short that fetching the next one would take longer than running it are claimed a few ahead. A claimed
job never waits long for its turn: once the job before it has run for `PATIENCE_S`, those behind it go back to
the queue, where an idle worker may take them.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashq.model.pace import expected, weighed

PATIENCE_S = 0.02
_AHEAD_S = 0.004  # work held ahead, in expected running time
_MOST_AHEAD = 32
_TINY_S = 0.001  # jobs shorter than this are handed to the executor a few at a time
_TINY_AHEAD = 4
_SILENT = (
    50  # jobs in a row: output is told apart by when it comes, so only silent ones are handed over ahead
)


@dataclass(slots=True)
class Backoff:
    """Pauses between tries that fail: the first of `first_s`, each twice the last, none over `longest_s`.

    Times are given by the caller, in seconds of one clock. `until`: before then nothing is to be tried.
    """

    first_s: float
    longest_s: float
    until: float = 0.0
    failing: bool = False
    _pause_s: float = 0.0

    def failed(self, now: float) -> bool:
        """A try failed; whether that is news. Further ones that were under way with it make no difference."""
        news = not self.failing
        if news or now >= self.until:
            self._pause_s = self.first_s if news else min(2 * self._pause_s, self.longest_s)
            self.until = now + self._pause_s
            self.failing = True
        return news

    def succeeded(self) -> bool:
        """A try succeeded; whether that is news."""
        news, self.failing = self.failing, False
        self.until = 0.0
        return news


@dataclass(slots=True)
class Pace:
    """An estimate of how long jobs run here, and what follows from it."""

    service_s: float | None = None
    expected_s: float | None = None  # what the autoscaler is told
    silent: int = 0  # jobs in a row that printed nothing

    def observe(self, execution_s: float) -> None:
        """Take a finished job into the estimate; a longer one counts at once, shorter ones gradually."""
        self.silent += 1
        self.service_s = weighed(self.service_s, execution_s)
        self.expected_s = expected(self.expected_s, execution_s)

    @property
    def ahead(self) -> int:
        """How many jobs to hold beyond those that run."""
        if self.service_s is None:
            return 0
        return min(_MOST_AHEAD, int(_AHEAD_S / max(self.service_s, 1e-6)))

    @property
    def handed_ahead(self) -> int:
        """How many of those to hand to the executor before it has asked: it would sleep longer than it works."""
        tiny = self.service_s is not None and self.service_s < _TINY_S
        return _TINY_AHEAD if tiny and self.silent >= _SILENT else 0
