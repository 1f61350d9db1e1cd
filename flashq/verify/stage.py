"""What a campaign has running: host agents with their workers, an autoscaler, callers, and the door to the broker.

All are flashq's own programs, told by their environment where the broker is: behind the door. Whatever dies is
started again.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.store.line import Line
from flashq.verify.caller import DONE, Share
from flashq.verify.door import Door
from flashq.verify.history import Began, Ended
from flashq.verify.kept import Kept, children, wait_until_gone
from flashq.verify.ledger import Tail
from flashq.verify.schedule import chosen
from flashq.verify.visit import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PYTHON = (sys.executable, "-P", "-m")
"""-P: no module of the folder it starts in stands in for one of ours."""
_TEND_S = 0.05
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Variation:
    """How one of the kept programs is run otherwise than the rest."""

    env: Mapping[str, str] = field(default_factory=dict)
    """Variables in place of the usual ones."""
    within: Sequence[str] = ()
    """A command that becomes the program it is given."""


@dataclass(frozen=True, slots=True)
class WorkerProcesses:
    """A supervisor and what it runs."""

    supervisor: int
    executors: tuple[int, ...]

    @property
    def pids(self) -> tuple[int, ...]:
        """Both."""
        return (self.supervisor, *self.executors)


class Stage:
    """Processes of one campaign, in `folder`. Its threads are daemons; `close` ends all."""

    def __init__(
        self,
        folder: Path,
        facts: Path,
        url: str,
        *,
        prefix: str,
        lease_s: float,
        hosts: int,
        by_hand: int,
        shares: Sequence[Share],
        variations: Mapping[str, Variation] | None = None,
    ) -> None:
        """`by_hand`: workers without a host agent, beside those that the autoscaler has started. `variations`: of some
        programs, by name.
        """
        self.folder = folder
        self.secret = secrets.token_bytes(32)
        self._prefix, self._lease_s = prefix, lease_s
        self._variations = variations or {}
        self.door = Door(folder / "door", lambda: Line(url).detach())
        self._lifeline, self._held_end = os.pipe()
        # Cold: whose a process is, is told by what started it, which for forked ones is none of the workers.
        self.hosts = [self._kept(f"host-{n}", "flashq", "host", "--cold", "--lifeline") for n in range(hosts)]
        self.autoscaler = self._kept("autoscaler", "flashq", "autoscaler", "--lifeline")
        self.by_hand = [
            self._kept(f"worker-{n}", "flashq", "worker", NAME, "--lifeline") for n in range(by_hand)
        ]
        self._runs = Tail(facts, "runs-")
        self._under_way: dict[int, tuple[str, int]] = {}
        self.callers = [
            self._kept(share.name, "flashq.verify.caller", share.dump(), done=DONE) for share in shares
        ]
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="stage", daemon=True)

    def _kept(self, name: str, *command: str, done: int | None = None) -> Kept:
        home = self.folder / name
        home.mkdir()
        key = home / "key"
        key.touch(0o600)
        key.write_bytes(self.secret)
        varied = self._variations.get(name, Variation())
        env = {
            **self._environment(),
            "FLASHQ_HOME": str(home),
            "FLASHQ_SECRET_KEY_FILE": str(key),
            **varied.env,
        }
        whole = [*varied.within, *_PYTHON, *command]
        return Kept(name, whole, env=env, folder=self.folder, lifeline=self._lifeline, done=done)

    def _environment(self) -> dict[str, str]:
        inherited: Mapping[str, str] = os.environ  # noqa: TID251 — handed on, not read
        kept = {name: value for name, value in inherited.items() if not name.startswith(("FLASHQ_", "RQ_"))}
        return kept | {
            "FLASHQ_REDIS_URL": self.door.url,
            "FLASHQ_LEASE_S": f"{self._lease_s:g}",
            "RQ_KEY_PREFIX": self._prefix,
        }

    # -- from start to end ---------------------------------------------------------------------------
    def start(self) -> None:
        """Start everything, and go on starting what dies."""
        self._tending.start()

    def _tend(self) -> None:
        while not self._closing.wait(_TEND_S):
            with self._lock:
                for kept in self.all():
                    kept.tend(time.monotonic())

    def all(self) -> list[Kept]:
        """What is kept running."""
        return [*self.hosts, self.autoscaler, *self.by_hand, *self.callers]

    @property
    def callers_done(self) -> bool:
        """Whether every share is done."""
        return all(caller.done for caller in self.callers)

    def stop(self) -> None:
        """End what is kept running, and wait until its workers are gone."""
        self._closing.set()
        if self._tending.is_alive():
            self._tending.join()
        below = [pid for worker in self.workers() for pid in worker.pids]
        for caller in self.callers:
            caller.stop()
        self.autoscaler.stop()
        for kept in (*self.by_hand, *self.hosts):
            kept.stop(_STOP_S)
        wait_until_gone(below, _STOP_S)

    def close(self) -> None:
        """`stop`, and close the door."""
        self.stop()
        os.close(self._held_end)
        os.close(self._lifeline)
        self.door.close()

    # -- who is there --------------------------------------------------------------------------------
    def workers(self, host: Kept | None = None) -> list[WorkerProcesses]:
        """The workers of a host (None: all), and what is to become one."""
        tree = children()
        agents = [h.pid for h in self.hosts if host is None or h is host]
        supervisors = [pid for agent in agents if agent is not None for pid in tree.get(agent, ())]
        if host is None:
            supervisors += [kept.pid for kept in self.by_hand if kept.pid is not None]
        return [WorkerProcesses(pid, tuple(tree.get(pid, ()))) for pid in supervisors]

    def at_work(self) -> list[WorkerProcesses]:
        """The workers that have an executor."""
        return [worker for worker in self.workers() if worker.executors]

    def busy(self) -> list[WorkerProcesses]:
        """The workers in which an attempt is under way."""
        for fact in self._runs.new():
            if isinstance(fact, Began):
                self._under_way[fact.pid] = (fact.job, fact.fence)
            elif isinstance(fact, Ended) and self._under_way.get(fact.pid) == (fact.job, fact.fence):
                del self._under_way[fact.pid]
        return [
            worker for worker in self.at_work() if not self._under_way.keys().isdisjoint(worker.executors)
        ]

    def pick_worker(self, fraction: float) -> WorkerProcesses | None:
        """One of the workers: a busy one if there are any, else one at work."""
        found = self.busy() or self.at_work() or self.workers()
        return chosen(fraction, found) if found else None

    def pick(self, fraction: float, among: Sequence[Kept]) -> Kept | None:
        """One that runs."""
        running = [kept for kept in among if kept.pid is not None]
        return chosen(fraction, running) if running else None

    def of_host(self, host: Kept) -> tuple[int, ...]:
        """A host agent and all of its workers."""
        own = () if host.pid is None else (host.pid,)
        return (*own, *(pid for worker in self.workers(host) for pid in worker.pids))

    def all_of(self, pid: int) -> tuple[int, ...]:
        """A process and those that end with it: a host agent's workers, a supervisor's executor."""
        tree = children()
        found = [pid]
        for one in found:
            found += tree.get(one, ())
        return tuple(found)
