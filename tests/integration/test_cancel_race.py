"""A cancel that races a completion, many times, on a real broker and worker. Row 31."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint, Status
from flashq.errors import JobCancelled
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob, Reply

pytestmark = pytest.mark.requires("valkey")
RACES, EACH_WINS = 60, 5


@Endpoint(name="raced", cpu="any")
async def raced(folder: str, number: int) -> int:
    Path(folder, f"{number} began").touch()
    while not Path(folder, f"{number} may end").exists():
        await asyncio.sleep(0.001)
    return number


class Handicap:
    """By how much the cancel starts after the other (or, negative, before it), so that either may win.

    Whoever won starts later the next time, by a step that doubles as long as the same one wins: so each comes to win a
    good part of the races, however quick the machine is.
    """

    def __init__(self) -> None:
        self.cancel_after_s = 0.0
        self.wins = Counter({True: 0, False: 0})
        self._step_s = 0.0
        self._last: bool | None = None

    def note(self, cancel_won: bool) -> None:
        self._step_s = min(2 * self._step_s, 0.064) if cancel_won is self._last else 0.0005
        self._last = cancel_won
        self.wins[cancel_won] += 1
        self.cancel_after_s += self._step_s if cancel_won else -self._step_s


class Course:
    """One worker, and two jobs in each race: one that runs until it may end, and one that waits for it."""

    def __init__(self, made: Rig, folder: Path) -> None:
        self.made, self.folder = made, folder
        self.ends: Counter[str] = Counter()
        self._numbers = iter(range(10_000))

    def began(self, number: int) -> bool:
        return (self.folder / f"{number} began").exists()

    def may_end(self, number: int) -> None:
        (self.folder / f"{number} may end").touch()

    def race(self, handicap: Handicap, *, cancel_waiting: bool = False) -> tuple[str, str, bool]:
        """Of the job that is cancelled while the first may end: the answer to that, its state, whether it began."""
        numbers = [next(self._numbers), next(self._numbers)]
        jobs = [raced(str(self.folder), number) for number in numbers]
        wait_until(lambda: self.began(numbers[0]), what="it runs")
        said = self._run(jobs[cancel_waiting], numbers[0], handicap.cancel_after_s)
        self.may_end(numbers[1])
        for job in jobs:
            wait_until(lambda job=job: job.done, 30, "it ended")  # type: ignore[misc]

        states = [
            self._check(number, job, said if cancelled else None)
            for number, job, cancelled in zip(
                numbers, jobs, (not cancel_waiting, cancel_waiting), strict=True
            )
        ]
        return said, states[cancel_waiting], self.began(numbers[cancel_waiting])

    def _run(self, job: EndpointJob[int], number: int, cancel_after_s: float) -> str:
        said: Reply[str] | None = None
        if cancel_after_s < 0:
            said = job.cancel()
        else:
            self.may_end(number)
        time.sleep(abs(cancel_after_s))
        self.may_end(number)
        return (said or job.cancel()).result(30)

    def _check(self, number: int, job: EndpointJob[int], said: str | None) -> str:
        """That all who know of a job's end say the same; its state. `said`: the answer to its cancel, if it had one."""
        state = self.made.job_field(job.id, "fq_state")
        self.ends[state] += 1
        places = ["finished", "canceled", "failed", "scheduled"]
        keys = [self.made.broker.keys.of(place, "raced") for place in places]
        scores = [self.made.broker.execute("ZSCORE", key, job.id) for key in keys]
        listed = [place for place, score in zip(places, scores, strict=True) if score is not None]
        if state == "finished":
            assert job.result(0) == number
            assert job.status().result(10) is Status.COMPLETED
            assert listed == ["finished"]
            assert said in (None, "requested", "finished")
            assert self.made.job_field(job.id, "fq_outcome")
        else:
            assert state == "cancelled"
            with pytest.raises(JobCancelled):
                job.result(0)
            assert job.status().result(10) is Status.CANCELLED
            assert listed == ["canceled"]
            assert said in ("requested", "cancelled")
        if said == "cancelled":
            assert not self.began(number), "a job that ended waiting was not run"
        return state


@pytest.fixture
def course(tmp_path: Path) -> Iterator[Course]:
    with rig() as made:
        made.ready_worker(raced)
        course = Course(made, tmp_path)
        yield course
        stats = made.broker.execute("HMGET", made.broker.keys.of("stats", "raced"), *course.ends)
        assert [int(count) for count in stats] == list(course.ends.values())


def test_exactly_one_of_a_cancel_and_a_return_wins_and_everybody_agrees_which(course: Course) -> None:
    """Given a job that may return as its cancel reaches its worker, expect one of both ends, told by all."""
    handicap = Handicap()
    for _ in range(RACES):
        _, state, _ = course.race(handicap)
        handicap.note(state == "cancelled")

    assert min(handicap.wins.values()) >= EACH_WINS, "the race was one"


def test_a_cancel_that_reaches_the_broker_with_the_outcome_is_told_which_came_first(course: Course) -> None:
    """Given an outcome that comes to the broker as a cancel does, expect the later cancel to be told so."""
    handicap = Handicap()
    for _ in range(RACES):
        said, _, _ = course.race(handicap)
        handicap.note(said != "finished")

    assert min(handicap.wins.values()) >= EACH_WINS, "the race was one"


def test_a_job_that_is_cancelled_as_its_turn_comes_runs_or_does_not(course: Course) -> None:
    """Given a job that is begun as its cancel comes, expect it cancelled, having begun or not."""
    handicap = Handicap()
    for _ in range(RACES):
        _, state, began = course.race(handicap, cancel_waiting=True)
        handicap.note(not began)
        assert state == "cancelled" or began

    assert min(handicap.wins.values()) >= EACH_WINS, "the race was one"
