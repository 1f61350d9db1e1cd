"""The jobs in a worker's hands: claimed and waiting their turn, or running in the executor."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq_worker.assignment import Assignment


@dataclass(slots=True)
class Hand:
    """`concurrency`: how many may run at once. `running` are those handed to the executor, in that order; up to
    `ahead` more than run at once, so that it finds its next job at hand."""

    concurrency: int = 1
    ahead: int = 0
    running: dict[str, Assignment] = field(default_factory=dict)
    waiting: deque[Assignment] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def __iter__(self) -> Iterator[Assignment]:
        yield from self.running.values()
        yield from self.waiting

    @property
    def room(self) -> int:
        """How many more could begin now."""
        return max(0, self.concurrency - len(self))

    @property
    def free(self) -> int:
        """How many of those waiting could be handed to the executor now."""
        return max(0, self.concurrency + self.ahead - len(self.running))

    def leases(self) -> tuple[tuple[str, int], ...]:
        """Id and fence of each, to be renewed. The one method that another thread may call."""
        held = [*list(self.running.values()), *list(self.waiting)]  # list() of each is one step under the GIL
        return tuple((h.job, h.fence) for h in held)

    @property
    def current(self) -> list[Assignment]:
        """Those that run now, not those handed ahead: only their time counts."""
        return list(self.running.values())[: self.concurrency]

    @property
    def backlog(self) -> bool:
        """Whether any wait for another to end, here or in the executor."""
        return bool(self.waiting) or len(self.running) > self.concurrency

    @property
    def oldest_began_at(self) -> float:
        """When the job running longest began; infinity where none runs."""
        return min((held.began_at for held in self.running.values()), default=float("inf"))

    def take_waiting(self, job: str | None = None) -> list[Assignment]:
        """Take one job, or all, out of those waiting."""
        taken = [held for held in self.waiting if job is None or held.job == job]
        self.waiting = deque(held for held in self.waiting if held not in taken)
        return taken

    def take_ahead(self) -> list[Assignment]:
        """Take out of the hand what the executor was given and cannot have begun."""
        taken = list(self.running.values())[self.concurrency :]
        for held in taken:
            del self.running[held.job]
        return taken

    def take_running(self) -> list[Assignment]:
        """Take all that run out of the hand."""
        taken = list(self.running.values())
        self.running.clear()
        return taken
