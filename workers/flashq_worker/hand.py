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
        """Whether any wait for another to end, here or in the executor, and have not been asked back."""
        return bool(self.waiting) or bool(self.ahead_of_time)

    @property
    def oldest_began_at(self) -> float:
        """When the job running longest began; infinity where none runs."""
        return min((held.began_at for held in self.running.values()), default=float("inf"))

    def take_waiting(self, job: str | None = None) -> list[Assignment]:
        """Take one job, or all, out of those waiting."""
        taken = [held for held in self.waiting if job is None or held.job == job]
        self.waiting = deque(held for held in self.waiting if held not in taken)
        return taken

    def take_revision(self, revision: str) -> list[Assignment]:
        """Take those of one revision out of those waiting."""
        taken = [held for held in self.waiting if held.claimed.revision == revision]
        self.waiting = deque(held for held in self.waiting if held.claimed.revision != revision)
        return taken

    @property
    def ahead_of_time(self) -> list[Assignment]:
        """What the executor was given beyond what it runs at once, and was not asked for again.

        As far as is known here: what is in front of them may have ended, and its outcome be under way. So only
        the executor can say that one of them has not begun.
        """
        if len(self.running) <= self.concurrency:
            return []
        return [held for held in list(self.running.values())[self.concurrency :] if not held.asked_back]

    def take_running(self, beyond: int = 0) -> list[Assignment]:
        """Take those that run out of the hand, but for the first `beyond`."""
        taken = list(self.running.values())[beyond:]
        for held in taken:
            del self.running[held.job]
        return taken
