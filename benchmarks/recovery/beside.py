"""The peers' side: for each part of a worker, several busy workers are killed in one go, and then waited for."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.recovery.peers import PEERS, Peer, kill_all, versions, wait_gone
from benchmarks.recovery.record import Kill, Part, about, begun, lines
from tests.rig import BrokerServer, wait_until

UNITS = 5
STAY_S = 150.0
"""How long a first run stays if it is not killed: less than RQ's default timeout (180 s)."""
PATIENCE_S = {"rq": 1000.0, "dramatiq": 1500.0, "celery": 3900.0, "ray": 300.0, "ray_actor": 300.0}
"""How long a job that does not come back is waited for."""


def measure(name: str, patience_s: float | None = None) -> dict[str, Any]:
    """Every go of one peer, all at the same time: they only wait."""
    kind, patience = PEERS[name], patience_s or PATIENCE_S[name]
    goes: list[tuple[Part, bool]] = [
        *((part, True) for part in kind.busy),
        *((part, False) for part in kind.idle),
    ]
    record = about(versions(*kind.packages), broker="Valkey 9", waited_at_most_s=patience)
    if name.startswith("ray"):  # one cluster at a time: each is many processes
        done = [_go(kind, part, busy, patience) for part, busy in goes]
    else:
        with ThreadPoolExecutor(len(goes)) as pool:
            done = list(pool.map(lambda go: _go(kind, go[0], go[1], patience), goes))
    return {"about": record, "kills": [kill.as_dict() for kills in done for kill in kills]}


def _go(kind: type[Peer], part: Part, busy: bool, patience_s: float) -> list[Kill]:
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.name}-"))
    try:
        with closing(BrokerServer("valkey")) as server, closing(kind(server.url, folder)) as peer:
            go = _Go(peer, folder / "record", part, patience_s)
            return go.busy() if busy else go.idle()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Go:
    """One go: workers started, killed, waited for."""

    def __init__(self, peer: Peer, record: Path, part: Part, patience_s: float) -> None:
        self._peer, self._record, self._part = peer, record, part
        self._patience_s = patience_s

    def busy(self) -> list[Kill]:
        """Kill workers in the middle of their jobs."""
        peer, jobs = self._peer, []
        for unit in range(UNITS):
            peer.start_unit(unit)
            jobs.append(peer.submit(f"work-{unit}", unit, STAY_S))
        first = [self._begun(unit) for unit in range(UNITS)]
        peer.start_standby(UNITS)
        victims = [peer.victims(unit, self._part, first[unit].pid) for unit in range(UNITS)]
        assert not any(peer.state(job) == "failed" for job in jobs), "none of them failed by itself"
        killed_ns = time.monotonic_ns()
        kill_all([process for unit in victims for process in unit], self._part)
        return self._watch(jobs, [row.pid for row in first], killed_ns)

    def idle(self) -> list[Kill]:
        """Kill idle workers, and submit to their queues at once."""
        peer = self._peer
        for unit in range(UNITS):
            peer.start_unit(unit)
            Path(f"{self._record}.{unit}").touch()  # no run stays
            peer.submit(f"work-{unit}", unit, 0.0)
        for unit in range(UNITS):
            self._begun(unit)
        peer.start_standby(UNITS)
        time.sleep(3.0)  # what was done is acknowledged, and all are idle
        found = []
        for unit in range(UNITS):
            number = 100 + unit
            Path(f"{self._record}.{number}").touch()
            victims = peer.victims(unit, self._part, None)
            killed_ns = time.monotonic_ns()
            kill_all(victims)
            wait_gone(victims)
            job = peer.submit(f"work-{unit}", number, 0.0)
            found += self._watch([job], [0], killed_ns, busy=False, numbers=[number])
        return found

    def _begun(self, number: int) -> Any:
        return wait_until(lambda: begun(self._record, number), 120, f"{self._peer.name}: job {number} begun")

    def _watch(
        self,
        jobs: list[str],
        first_pids: list[int],
        killed_ns: int,
        *,
        busy: bool = True,
        numbers: list[int] | None = None,
    ) -> list[Kill]:
        """Wait until each job is back, or said to have failed or finished, or patience ends."""
        numbers = numbers or list(range(len(jobs)))
        ended_s: dict[str, dict[int, float]] = {"failed": {}, "finished": {}}
        failed, finished = ended_s["failed"], ended_s["finished"]
        ask_at = 0.0
        while True:
            passed_s = (time.monotonic_ns() - killed_ns) / 1e9
            back = {n: row for n in numbers if (row := begun(self._record, n, after_ns=killed_ns))}
            settled = back.keys() | failed.keys() | finished.keys()
            if passed_s >= ask_at:
                for number, job in zip(numbers, jobs, strict=True):
                    if number not in settled and (state := self._peer.state(job)) in ended_s:
                        ended_s[state][number] = passed_s
                ask_at = passed_s + min(5.0, 0.2 + passed_s / 20)
            if (
                len(back.keys() | failed.keys() | finished.keys()) == len(numbers)
                or passed_s > self._patience_s
            ):
                break
            time.sleep(0.02 if passed_s < 30 else 0.25)
        ended = {(row.number, row.pid) for row in lines(self._record) if row.what == "end"}
        return [
            Kill(
                self._part,
                busy,
                back_s=round((back[n].at_ns - killed_ns) / 1e9, 3) if n in back else None,
                failed_s=round(failed[n], 3) if n in failed and n not in back else None,
                went_on=(n, pid) in ended,
                completed_s=round(finished[n], 3) if n in finished and n not in back else None,
                watched_s=round(passed_s, 1),
            )
            for n, pid in zip(numbers, first_pids, strict=True)
        ]
