"""What is seen while the demo runs: a live table on a terminal, plain lines elsewhere, a timeline at the end.

Looks at the queue and the workers through a function it is given, some times a second, and keeps what it saw.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from rich.console import Console, RenderableType

LOOK_EVERY_S = 0.2
PLAIN_LINE_EVERY_S = 5.0
RATE_WINDOW_S = 5.0
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The endpoint at one moment: jobs in its queue, jobs being run, and its workers by state."""

    queued: int
    in_progress: int
    workers: Mapping[str, int]

    @property
    def alive(self) -> int:
        """How many workers there are; those throttled or unhealthy are wanted and cannot start."""
        return sum(n for state, n in self.workers.items() if state not in {"throttled", "unhealthy"})


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot, when it was taken (seconds from the start) and how many docstrings were done by then."""

    at_s: float
    done: int
    seen: Snapshot


@dataclass(slots=True)
class Watch:
    """Looks at the endpoint in its own thread from `__enter__` to `__exit__`, shows and keeps what it sees.

    An error of `look` ends the looking; `__exit__` raises it, so that a gap in the record cannot pass unseen.
    """

    look: Callable[[], Snapshot]
    total: int
    console: Console
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    moments: list[Moment] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)
    _began: float = 0.0
    _error: Exception | None = None
    _looked: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _live: Live | None = None

    def __enter__(self) -> Self:
        self._began = self.clock()
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.table, transient=True)
            self._live.start()
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.end_live()
        if self._error is not None and error is None:
            raise self._error

    def end_live(self) -> None:
        """Take the live table away, so that lines can be printed; the looking goes on."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def wait_for(self, wanted: Callable[[Moment], bool], timeout_s: float) -> bool:
        """Wait until the last moment is as wanted; False where that takes longer than `timeout_s`."""
        with self._looked:
            return self._looked.wait_for(
                lambda: self._error is not None or bool(self.moments and wanted(self.moments[-1])), timeout_s
            )

    def note(self, text: str) -> None:
        """Mark this moment in the timeline."""
        self.notes.append((self.clock() - self._began, text))

    @property
    def peak(self) -> int:
        """The most workers seen at once."""
        return max((moment.seen.alive for moment in self.moments), default=0)

    def table(self) -> RenderableType:
        """Draw the last moment."""
        grid = Table.grid(padding=(0, 2))
        if not self.moments:
            return grid
        moment, workers = self.moments[-1], self.moments[-1].seen.workers
        bar = ProgressBar(total=self.total, completed=moment.done, width=40)
        depths = sparkline([each.seen.queued for each in self.moments], 20)
        crowds = sparkline([each.seen.alive for each in self.moments], 20)
        waiting = f"{moment.seen.queued} waiting, {moment.seen.in_progress} in progress"
        grid.add_row("docstrings", bar, f"{moment.done:,} of {self.total:,}")
        grid.add_row("throughput", f"{rate(self.moments):.0f} a second", f"{moment.at_s:.0f} s")
        grid.add_row("queue", waiting, depths)
        grid.add_row("workers", describe(workers), crowds)
        return grid

    def _run(self) -> None:
        printed_s, printed = float("-inf"), ""
        while not self._stop.is_set():
            try:
                seen = self.look()
            except Exception as error:  # noqa: BLE001 -- raised by __exit__, in the thread that can act on it
                self._keep(error)
                return
            moment = Moment(self.clock() - self._began, self.done, seen)
            self._keep(moment)
            due = moment.at_s >= printed_s + PLAIN_LINE_EVERY_S and moment.done < self.total
            if not self.console.is_terminal and (due or standing(seen.workers) != printed):
                printed_s, printed = moment.at_s, standing(seen.workers)
                print(plain_line(moment, self.total, rate(self.moments)), flush=True)
            self._stop.wait(LOOK_EVERY_S)

    def _keep(self, seen: Moment | Exception) -> None:
        with self._looked:
            if isinstance(seen, Moment):
                self.moments.append(seen)
            else:
                self._error = seen
            self._looked.notify_all()


def rate(moments: Sequence[Moment]) -> float:
    """Return the docstrings a second over the last few seconds."""
    if not moments:
        return 0.0
    last = moments[-1]
    first = next(moment for moment in moments if moment.at_s >= last.at_s - RATE_WINDOW_S)
    return (last.done - first.done) / (last.at_s - first.at_s) if last.at_s > first.at_s else 0.0


def describe(workers: Mapping[str, int]) -> str:
    """Return workers by state in words: "1 initializing, 1 running"."""
    return ", ".join(f"{count} {state}" for state, count in sorted(workers.items()) if count) or "none"


def standing(workers: Mapping[str, int]) -> str:
    """Return workers in words without telling idle from running, which change with every job."""
    kept = dict(workers)
    ready = kept.pop("idle", 0) + kept.pop("running", 0)
    return describe({**kept, "ready": ready})


def plain_line(moment: Moment, total: int, per_second: float) -> str:
    """Return one moment as a line of text."""
    return (
        f"{moment.at_s:6.1f} s  {moment.done:>6,} of {total:,} docstrings  {per_second:4.0f} a second  "
        f"queue {moment.seen.queued:>3}  in progress {moment.seen.in_progress}  "
        f"workers: {describe(moment.seen.workers)}"
    )


def timeline(moments: Sequence[Moment], notes: Sequence[tuple[float, str]]) -> list[str]:
    """Return what happened when: each change of the workers (idle or running aside) and each note."""
    events = [(at_s, text) for at_s, text in notes]
    before = "none"
    for moment in moments:
        now = standing(moment.seen.workers)
        if now != before:
            events.append((moment.at_s, f"workers: {now}"))
            before = now
    return [f"{at_s:6.1f} s  {text}" for at_s, text in sorted(events, key=lambda event: event[0])]


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as a row of at most `width` bars: each is the largest of its share, the highest is full."""
    highest = max(values, default=0)
    if not highest:
        return ""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)]
    tops = [max(values[start:end]) for start, end in itertools.pairwise(edges)]
    return "".join(BARS[-(-int(top * (len(BARS) - 1)) // int(highest))] if highest else " " for top in tops)
