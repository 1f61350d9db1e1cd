"""The four scaling lines, on the default rule, with real processes: broker, `flashq host`, `flashq autoscaler`.

First job, no worker → one starts. More jobs while workers are busy → up to max. Jobs done → workers stay for
`idle_timeout`. Nothing new → back to min. And what is a cold start, and what a warm one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.fleet_rig import alive
from tests.rig import SECRET, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.endpoint import EndpointFunction

pytestmark = pytest.mark.requires("valkey")


class Stack:
    """A rig with a host agent and an autoscaler beside it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._processes = {name: self._start(name) for name in ("host", "autoscaler")}

    def _start(self, command: str, *further: str) -> subprocess.Popen[bytes]:
        variables = {
            "FLASHQ_REDIS_URL": self.rig.server.url,
            "FLASHQ_SECRET_KEY": SECRET.hex(),
            "FLASHQ_HOME": str(self.rig.home),
            "FLASHQ_LEASE_S": str(self.rig.lease_s),
        }
        with (self.rig.server.folder / f"{command}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "flashq", command, *further],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, command: str) -> str:
        """What `flashq host` or `flashq autoscaler` has written."""
        return (self.rig.server.folder / f"{command}.log").read_text("utf-8", "replace")

    def workers(self, endpoint: EndpointFunction[Any, Any]) -> dict[str, dict[str, str]]:
        """The workers on record, with their fields."""
        broker = self.rig.broker
        ids = broker.execute("ZRANGE", broker.keys.of("endpoint_workers", endpoint.name), 0, -1)
        found = {}
        for worker in ids:
            flat = broker.execute("HGETALL", broker.keys.of("worker", worker.decode()))
            pairs = zip(flat[::2], flat[1::2], strict=True)
            found[worker.decode()] = {
                name.decode(): value.decode("utf-8", "replace") for name, value in pairs
            }
        return found

    def states(self, endpoint: EndpointFunction[Any, Any]) -> list[str]:
        """The states of its workers, sorted."""
        return sorted(fields.get("fq_state", "?") for fields in self.workers(endpoint).values())

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()


class Peak:
    """Samples how many workers an endpoint has."""

    def __init__(self, stack: Stack, endpoint: EndpointFunction[Any, Any]) -> None:
        self.most = 0
        self._stack, self._endpoint = stack, endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, len(self._stack.workers(self._endpoint)))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


@Endpoint(name="work", cpu="any", workers=(0, 3), idle_timeout=2)
def work(seconds: float, value: Any = None) -> Any:
    import os
    import time

    time.sleep(seconds)
    return os.getpid() if value is None else value


def test_first_job_with_no_worker_starts_one(stack: Stack) -> None:
    with Peak(stack, work) as peak:
        job = work.spawn(0, "done")
        assert job.result(20) == "done"
    assert peak.most == 1
    assert job.cold_start is True
    assert stack.states(work) == ["idle"]
    (fields,) = stack.workers(work).values()
    assert float(fields["fq_cold_ms"]) > 0
    assert "start worker 1" in stack.log("autoscaler")


def test_jobs_that_come_while_workers_are_busy_take_them_up_to_max(stack: Stack) -> None:
    with Peak(stack, work) as peak:
        began = time.monotonic()
        jobs = []
        for value in range(8):
            jobs.append(work.spawn(1.5, value))
            time.sleep(0.2)  # they arrive one by one, as calls do
        assert [job.result(30) for job in jobs] == list(range(8))
        took_s = time.monotonic() - began
    assert peak.most == 3
    assert took_s < 8 * 1.5, "they ran side by side"


def test_done_workers_stay_for_idle_timeout_and_then_go_to_min(stack: Stack) -> None:
    jobs = [work.spawn(1.0, value) for value in range(3)]
    assert [job.result(30) for job in jobs] == [0, 1, 2]
    wait_until(lambda: set(stack.states(work)) == {"idle"}, what="all are idle")
    pids = [int(fields["pid"]) for fields in stack.workers(work).values()]
    idle_since = {worker: int(fields["fq_since"]) for worker, fields in stack.workers(work).items()}

    assert work.remote(0, "warm") == "warm"
    wait_until(lambda: not stack.workers(work), what="none is left")

    drained = [row for row in events(stack, "worker-drained") if row["subject"] in idle_since]
    assert len(drained) == len(pids)
    for row in drained:
        assert row["at_ms"] - idle_since[row["subject"]] >= 2000
        assert "idle_timeout 2 s" in row["text"]
    wait_until(lambda: not any(alive(pid) for pid in pids), what="their processes ended")
    assert work.spawn(0, "again").result(20) == "again"


def events(stack: Stack, kind: str) -> list[dict[str, Any]]:
    """Events of a kind, each with the broker's time at which it was noted."""
    entries = stack.rig.broker.execute("XRANGE", stack.rig.broker.keys.of("events"), "-", "+")
    rows = []
    for entry, fields in entries:
        row: dict[str, Any] = {k.decode(): v.decode() for k, v in zip(fields[::2], fields[1::2], strict=True)}
        rows.append({**row, "at_ms": int(entry.split(b"-")[0])})
    return [row for row in rows if row["kind"] == kind]


@Endpoint(name="ready", cpu="any", workers=(1, 2), idle_timeout=1)
def ready(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "done"


def test_minimum_of_one_keeps_one_ready_and_its_first_request_is_warm(stack: Stack) -> None:
    stack.rig.register(ready)
    wait_until(lambda: stack.states(ready) == ["idle"], what="one is ready before any call")
    job = ready.spawn(0)
    assert job.result(20) == "done"
    assert job.cold_start is False
    (first,) = stack.workers(ready)
    until = time.monotonic() + 2.5
    wait_until(
        lambda: time.monotonic() > until or stack.states(ready) != ["idle"], what="well past idle_timeout"
    )
    assert list(stack.workers(ready)) == [first]


def test_all_busy_is_a_cold_start_and_marked_so(stack: Stack) -> None:
    stack.rig.register(ready)
    wait_until(lambda: stack.states(ready) == ["idle"], what="one is ready")
    warm = ready.spawn(3.0)
    wait_until(lambda: stack.states(ready) == ["running"], what="it is busy")
    cold = ready.spawn(0)
    assert cold.result(20) == "done"
    assert (warm.result(20), warm.cold_start) == ("done", False)
    assert cold.cold_start is True
    wait_until(lambda: len(stack.workers(ready)) == 1, what="back to the minimum")


def test_busy_worker_killed_by_nobody_while_it_scales(stack: Stack) -> None:
    """A job longer than idle_timeout, beside workers that come and go, runs once and to its end."""
    long = work.spawn(5.0, "long")
    short = [work.spawn(0, value) for value in range(4)]
    assert [job.result(30) for job in short] == [0, 1, 2, 3]
    assert long.result(30) == "long"
    assert stack.rig.job_field(long.id, "fq_attempts") == "1"


def test_worker_killed_with_its_job_is_replaced_and_the_job_runs_again(stack: Stack) -> None:
    job = work.spawn(1.0, "done")
    wait_until(lambda: stack.states(work) == ["running"], what="it runs")
    (fields,) = stack.workers(work).values()
    os.kill(int(fields["pid"]), signal.SIGKILL)
    assert job.result(20) == "done"
    assert stack.rig.job_field(job.id, "fq_attempts") == "2"
    assert len([row for row in events(stack, "worker-lost") if "SIGKILL" in row["text"]]) == 1
