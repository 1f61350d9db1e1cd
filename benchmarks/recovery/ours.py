"""flashq's side of the benchmark: a broker, host agents and an autoscaler as a person starts them, on their defaults.

Every number is of real processes killed with SIGKILL. There is no second worker that stands by: where a worker is
lost, the time contains the start of the next one.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import flashq
from benchmarks.recovery.peer_programs import job
from benchmarks.recovery.peers import family, kill_all, wait_gone
from benchmarks.recovery.record import Kill, Line, about, begun
from flashq import Endpoint
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.recovery.record import Part
    from flashq.job import EndpointJob

LEASE_S = 15.0
STAY_S = 600.0
_SHARES: list[tuple[Part, bool, float]] = [
    ("worker", True, 0.25),
    ("worker", False, 0.20),
    ("job", True, 0.15),
    ("job", False, 0.10),
    ("supervisor", True, 0.10),
    ("host", True, 0.08),
    ("host", False, 0.06),
    ("cut", True, 0.06),
]
_OF_HOSTS = ("host", "cut")
_AT_ONCE = 4  # hosts that are gone at the same moment
_RANDOM = random.Random(4)  # noqa: S311 — spreads the moments of the kills


@Endpoint(name="recover", cpu="any")
def recover(record: str, number: int, stay_s: float) -> int:
    """What every system runs; all parameters at their defaults."""
    return job.run(record, number, stay_s)


@Endpoint(name="recover_many", cpu="any", workers=(0, _AT_ONCE))
def recover_many(record: str, number: int, stay_s: float) -> int:
    """The same on several hosts at once."""
    return job.run(record, number, stay_s)


def measure(kills: int) -> dict[str, Any]:
    """Kill workers so many times."""
    record = about({"flashq": flashq.__version__}, broker="Valkey 9", lease_s=LEASE_S)
    found: list[Kill] = []
    with _stack() as stack:
        one = _OneWorker(stack)
        for part, busy, share in _SHARES:
            if part not in _OF_HOSTS:
                for _ in range(max(1, round(share * kills))):
                    found.append(one.busy(part) if busy else one.idle(part))
    for part, busy, share in _SHARES:
        if part in _OF_HOSTS:
            for _ in range(max(1, round(share * kills / _AT_ONCE))):
                found += _hosts_gone(part, busy=busy)
    record["load_average_after"] = round(os.getloadavg()[0], 2)
    return {"about": record, "kills": [kill.as_dict() for kill in found]}


@contextmanager
def _stack() -> Iterator[Stack]:
    with closing(Rig(lease_s=LEASE_S)) as rig, closing(Stack(rig)) as stack:
        wait_until(stack.hosts, 30, "a host on record")
        yield stack


class _Jobs:
    """Calls of the function that writes down when it runs."""

    def __init__(self, stack: Stack) -> None:
        self.record = stack.rig.server.folder / "record"

    def staying(self, number: int) -> tuple[str, int, float]:
        """Arguments of a call whose first run stays, to be killed."""
        return str(self.record), number, STAY_S

    def quick(self, number: int) -> tuple[str, int, float]:
        """Arguments of a call of which no run stays."""
        Path(f"{self.record}.{number}").touch()
        return str(self.record), number, 0.0

    def begun(self, number: int, *, after_ns: int = 0) -> Line:
        """Wait for the first line of a run."""
        found = wait_until(lambda: begun(self.record, number, after_ns=after_ns), 90, f"job {number} begun")
        assert isinstance(found, Line)
        return found


class _OneWorker:
    """Kills of the one worker that a host has."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._jobs = _Jobs(stack)
        self._number = 0

    def busy(self, part: Part) -> Kill:
        """In the middle of a job."""
        number = self._next()
        call = recover.spawn(*self._jobs.staying(number))
        first = self._jobs.begun(number)
        time.sleep(_RANDOM.uniform(0.0, 0.7))  # at any moment between two renewals and reapings
        return self._ended(part, True, call, number, _kill(_parts(part, first.pid, first.parent)))

    def idle(self, part: Part) -> Kill:
        """While it waits, and then a job comes."""
        number = self._next()
        supervisor = self._idle_supervisor()
        (executor,) = psutil.Process(supervisor).children()
        time.sleep(_RANDOM.uniform(0.0, 0.7))
        killed_ns = _kill(_parts(part, executor.pid, supervisor))
        return self._ended(part, False, recover.spawn(*self._jobs.quick(number)), number, killed_ns)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _idle_supervisor(self) -> int:
        def found() -> int:
            rows = self._stack.workers(recover).values()
            return next((int(row["pid"]) for row in rows if row.get("fq_state") == "idle"), 0)

        return int(wait_until(found, 30, "an idle worker"))

    def _ended(self, part: Part, busy: bool, call: EndpointJob[int], number: int, killed_ns: int) -> Kill:
        again = self._jobs.begun(number, after_ns=killed_ns)
        assert call.result(30) == number
        return Kill(part, busy, back_s=round((again.at_ns - killed_ns) / 1e9, 3))


def _hosts_gone(part: Part, *, busy: bool) -> list[Kill]:
    """Hosts with a worker each are gone (or cut off) at one moment, agent and all; one more is left to take over."""
    with _stack() as stack:
        jobs, folder = _Jobs(stack), stack.rig.server.folder
        stack.host.terminate()
        stack.host.wait()
        doomed = [stack.start("host", "--slots", "1", home=folder / f"home-{n}") for n in range(_AT_ONCE)]
        wait_until(lambda: len(stack.hosts()) == _AT_ONCE, 30, "the hosts on record")
        numbers = list(range(_AT_ONCE))
        calls = [recover_many.spawn(*(jobs.staying(n) if busy else jobs.quick(n))) for n in numbers]
        for number, call in zip(numbers, calls, strict=True):
            jobs.begun(number)
            if not busy:
                call.result(60)
        stack.start("host", home=folder / "home")
        wait_until(lambda: len(stack.hosts()) == _AT_ONCE + 1, 30, "one more host")
        time.sleep(_RANDOM.uniform(0.0, LEASE_S / 3))
        victims = [process for agent in doomed for process in family(agent.pid)]
        try:
            killed_ns = _kill(victims, part)
            if not busy:
                numbers = [100 + n for n in numbers]
                calls = [recover_many.spawn(*jobs.quick(n)) for n in numbers]
            found = []
            for number, call in zip(numbers, calls, strict=True):
                again = jobs.begun(number, after_ns=killed_ns)
                found.append(Kill(part, busy, back_s=round((again.at_ns - killed_ns) / 1e9, 3)))
                assert call.result(60) == number
            return found
        finally:
            kill_all(victims)  # what was cut off is still there


def _parts(part: Part, executor: int, supervisor: int) -> list[psutil.Process]:
    pids = {"job": [executor], "supervisor": [supervisor], "worker": [supervisor, executor]}[part]
    return [psutil.Process(pid) for pid in pids]


def _kill(victims: list[psutil.Process], part: Part = "worker") -> int:
    """Kill them at one moment, which is returned, and wait until they are gone."""
    at_ns = time.monotonic_ns()
    kill_all(victims, part)
    if part != "cut":
        wait_gone(victims)
    return at_ns
