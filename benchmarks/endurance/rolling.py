"""R6: workers, and whole host agents, are restarted in turn while jobs run: no error, and no job twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

from flashq import Endpoint
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 4
_READY = ("idle", "running")


@Endpoint(name="steady", cpu="any", workers=(WORKERS, WORKERS))
def steady(record: str, number: int) -> int:
    """Write down that this number ran; 10 ms."""
    import os
    import time

    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    time.sleep(0.01)
    return number


class _Load(threading.Thread):
    """The caller: maps over all numbers and keeps what comes back."""

    def __init__(self, record: Path, count: int) -> None:
        super().__init__()
        self.back: list[Any] = []
        self._record, self._count = record, count

    def run(self) -> None:
        records = [str(self._record)] * self._count
        numbers = range(self._count)
        for value in steady.map(records, numbers, return_exceptions=True, progress=False):
            self.back.append(value)


def measure(jobs: int) -> dict[str, Any]:
    """Restart until all jobs are back."""
    with closing(Rig(lease_s=15.0)) as rig, closing(Stack(rig)) as stack:
        record = rig.server.folder / "record"
        agents = [stack.host, stack.start("host", name="host-2", home=rig.server.folder / "home-2")]
        load = _Load(record, jobs)
        started = time.monotonic()
        load.start()
        restarted: Counter[str] = Counter()
        while load.is_alive():
            _all_up(stack, load)
            if not load.is_alive():
                break
            if restarted["workers"] % 4 == 3:
                turn = restarted["hosts"]
                agents[turn % 2].send_signal(signal.SIGTERM)
                assert agents[turn % 2].wait(60) == 0
                home = None if turn % 2 == 0 else rig.server.folder / "home-2"
                agents[turn % 2] = stack.start("host", name=f"host-again-{turn}", home=home)
                restarted["hosts"] += 1
                restarted["workers"] += 1  # one step on; those of the host are not counted
            else:
                _oldest_worker(stack)
                restarted["workers"] += 1
        load.join()
        took_s = time.monotonic() - started
        ran = Counter(int(line) for line in record.read_text().split())
        events = Counter(event["kind"] for kind in _BAD for event in rig.events(kind))
    return {
        "jobs": jobs,
        "seconds": round(took_s, 1),
        "workers restarted by SIGTERM": restarted["workers"] - restarted["hosts"],
        "host agents restarted by SIGTERM": restarted["hosts"],
        "errors": sum(isinstance(value, BaseException) for value in load.back),
        "wrong values": sum(a != b for a, b in zip(load.back, range(jobs), strict=True)),
        "extra runs": sum(ran.values()) - len(ran),
        "never run": jobs - len(ran),
        "requeued or lost": dict(events),
    }


_BAD = ("job-requeued", "job-lost", "stale-outcome")


def _all_up(stack: Stack, load: threading.Thread) -> None:
    """All workers ready, so that one restart comes after the other."""

    def up() -> bool:
        rows = stack.workers(steady).values()
        return (
            not load.is_alive()
            or sum(row.get("fq_state") in _READY and row.get("fq_drain") != "1" for row in rows) == WORKERS
        )

    wait_until(up, 60, "all workers ready")


def _oldest_worker(stack: Stack) -> None:
    """SIGTERM to the worker that has been there longest, as an operator restarts one; back when it is gone."""
    rows = stack.workers(steady)
    name = min(rows, key=lambda worker: float(rows[worker]["fq_ordered"]))
    os.kill(int(rows[name]["pid"]), signal.SIGTERM)
    wait_until(lambda: name not in stack.workers(steady), 60, "a worker left")
