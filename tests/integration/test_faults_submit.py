"""Row 1 of the failure matrix: a caller that is killed anywhere in a submit leaves the whole job, or nothing."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.stage import Stage, stage
from tests.chaos.proxy import Moment, Tripwire
from tests.conformance import snapshot
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(90)]

CALLER = """
from flashq import Endpoint

RECORD, GATE, HOW = sys.argv[1:]

@Endpoint(name="submits", cpu="any", workers=(0, 1))
def note(record, number, ballast=b""):
    with open(record, "a") as file:
        file.write(f"{number}\\n")

if HOW == "submit":
    note.spawn(RECORD, 0)  # so that a submit is all that is sent the next time
tell(ready=True)
while not os.path.exists(GATE):
    time.sleep(0.005)
if HOW != "many":
    note.spawn(RECORD, 1, b"x" * 300_000)
else:
    for number in range(100_000):
        tell(**{str(number): note.spawn(RECORD, number).id})
"""


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.broker.run(
            made.broker.transitions.epoch()
        )  # the scripts are loaded: no call is answered by their lack
        yield made


class Caller:
    """A program that submits once it is told to, and the jobs it leaves behind."""

    def __init__(self, made: Stage, folder: Path, how: str, **env: Any) -> None:
        self._stage = made
        self._before = made.states("submits").keys()
        self._record, self._gate = folder / "record", folder / "gate"
        self.program = made.start(CALLER, str(self._record), str(self._gate), how, env=env)
        self.program.wait_for("ready")

    def go(self) -> None:
        self._gate.touch()

    def kill(self) -> None:
        self.program.process.kill()
        assert self.program.ended() == -signal.SIGKILL

    def jobs(self) -> set[str]:
        """The ids of its jobs, after a look that each is there with all that belongs to it.

        (A worker may be at them while this looks, key by key: what is amiss has to stay so.)
        """
        made = self._stage
        found: dict[str, dict[str, str]] = {}

        def whole() -> bool:
            taken = snapshot.take(made.broker.redis())
            found.clear()
            found.update(snapshot.jobs(taken))
            calls = all(job.get("fq_call") for job in found.values() if job["fq_state"] != "finished")
            return calls and not snapshot.faults(taken) and made.states("submits").keys() == found.keys()

        wait_until(whole, what="every job is whole")
        return found.keys() - self._before

    def ran(self, jobs: set[str]) -> list[int]:
        """What the jobs noted, once a worker has run them."""
        made = self._stage
        self._record.touch()
        if jobs:
            made.serve("submits")
        wait_until(lambda: all(made.state(job) == "finished" for job in jobs), 30, "every job ran")
        return sorted(int(line) for line in self._record.read_text().split())


CASES: list[tuple[str, Moment, list[list[int]]]] = [
    ("register", "before", [[]]),
    ("register", "after", [[], [1]]),  # the submit may have been on its way
    ("submit", "before", [[0]]),
    ("submit", "half", [[0]]),
    ("submit", "after", [[0, 1]]),
    ("submit", "reply", [[0, 1]]),
]
"""A moment in the life of a call, and which jobs may be there afterwards."""


@pytest.mark.parametrize(("script", "moment", "left"), CASES)
def test_a_caller_killed_at_this_moment_leaves_the_whole_job_or_nothing(
    theatre: Stage, tmp_path: Path, script: str, moment: Moment, left: list[list[int]]
) -> None:
    """Row 1. Given a submit under way, if its program is killed, expect a job that runs once, or no trace of it."""
    caller: Caller
    wire = Tripwire(theatre.server.folder / "s", theatre.folder() / "p")
    struck = threading.Event()

    def strike() -> None:
        caller.kill()
        struck.set()

    with contextlib.closing(wire):
        caller = Caller(theatre, tmp_path, script, FLASHQ_REDIS_URL=wire.url)
        wire.arm(script, moment, strike)
        caller.go()
        wait_until(struck.is_set, what=f"{script} {moment}")

    jobs = caller.jobs()
    assert len(jobs) in map(len, left)
    assert caller.ran(jobs) in left


def test_a_caller_killed_amid_many_submits_loses_none_that_was_acknowledged(
    theatre: Stage, tmp_path: Path
) -> None:
    """Row 1. Given submit after submit, if the program is killed at any time, expect each that it had an answer to."""
    caller = Caller(theatre, tmp_path, "many")
    caller.go()
    caller.program.wait_for("50")
    time.sleep(random.random() / 20)
    caller.kill()
    told = {number: job for number, job in caller.program.said().items() if number.isdigit()}

    jobs = caller.jobs()
    assert set(told.values()) <= jobs
    assert len(jobs) <= len(told) + 1
    assert caller.ran(jobs) == list(range(len(jobs)))
