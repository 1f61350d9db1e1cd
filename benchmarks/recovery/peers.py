"""The other systems, each on its defaults, and how its workers are started and killed.

They live in an environment of their own (`ensure`), which no part of flashq ever sees. Each worker has a queue to
itself, so that it is known who has which job whatever is prefetched; one more worker, which is killed by nobody,
serves all queues.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.recovery.record import begun
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.recovery.record import Part

PROGRAMS = Path(__file__).parent / "peer_programs"
REQUIREMENTS = Path(__file__).parent / "peers.txt"
ENVIRONMENT = Path("build") / "peers"
_CLOSED_S = 0.05


def ensure() -> Path:
    """The peers' environment, made where it is not there; the folder of its programs."""
    stamp = ENVIRONMENT / "complete"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        pip: list[str | Path] = [
            ENVIRONMENT / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            REQUIREMENTS,
        ]
        subprocess.run(pip, check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return (ENVIRONMENT / "bin").absolute()


def versions(*packages: str) -> dict[str, str]:
    """What is installed there."""
    code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    done = subprocess.run(
        [ensure() / "python", "-c", code, *packages], check=True, capture_output=True, text=True
    )
    return dict(zip(packages, done.stdout.split(), strict=True))


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descends from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill_all(processes: Sequence[psutil.Process], part: Part = "worker") -> None:
    """SIGKILL at once: all are stopped before the first dies, so that none sees another's end.

    "cut": they are only stopped.
    """
    for which in (signal.SIGSTOP,) if part == "cut" else (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(which)


def wait_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until none of them runs any more, and then until the broker has seen their connections close.

    Sooner, the next job may be handed to a closed connection, where RQ leaves it for many minutes.
    """

    def gone(process: psutil.Process) -> bool:
        try:
            return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return True

    while not all(map(gone, processes)):
        time.sleep(0.001)
    time.sleep(_CLOSED_S)


class Peer(ABC):
    """One system on one broker: its client, its workers, one more worker that lives."""

    name: str
    packages: tuple[str, ...]
    busy: tuple[Part, ...] = ("job", "supervisor", "worker")
    idle: tuple[Part, ...] = ("worker",)
    prefix: tuple[str, ...] = ()

    def __init__(self, url: str, folder: Path) -> None:
        self._bin = ensure()
        self._folder = folder
        self._record = folder / "record"
        self._environ = {
            **os.environ,
            "RECOVERY_URL": url,
            "PYTHONPATH": str(PROGRAMS),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._units: list[int] = []
        self._client = self._spawn(
            "client", [*self.prefix, str(self._bin / "python"), str(PROGRAMS / f"{self.name}_side.py")]
        )

    # -- what differs --------------------------------------------------------------------------------
    @abstractmethod
    def command(self, unit: str, queues: Sequence[str]) -> list[str]:
        """The worker's command line."""

    # -- workers -------------------------------------------------------------------------------------
    def start_unit(self, number: int) -> None:
        """Start the worker of one queue; it is up when this returns."""
        self._units.append(self._worker(f"unit-{number}", [f"work-{number}"]))

    def start_standby(self, count: int) -> None:
        """Start the worker that lives; it is up when this returns."""
        self._worker("standby", [*(f"work-{n}" for n in range(count)), "probe"])
        self.submit("probe", -1, 0.0)
        wait_until(lambda: begun(self._record, -1), 120, f"{self.name}: a standby that works")

    def _worker(self, unit: str, queues: Sequence[str]) -> int:
        return self._spawn(unit, [str(self._bin / "python"), *self.command(unit, queues)]).pid

    def victims(self, unit: int, part: Part, job_pid: int | None) -> list[psutil.Process]:
        """The processes that are killed for a part of a unit."""
        root = self._units[unit]
        if part == "supervisor":
            return [psutil.Process(root)]
        if part == "job":
            assert job_pid is not None
            return [psutil.Process(job_pid)]
        return family(root)

    # -- the client ----------------------------------------------------------------------------------
    def submit(self, queue: str, number: int, stay_s: float) -> str:
        """Submit one job; its id."""
        return str(self._ask("submit", queue, str(self._record), number, stay_s))

    def state(self, job: str) -> str:
        """'failed', 'finished', or another word."""
        return str(self._ask("state", job))

    def _ask(self, *words: Any) -> Any:
        with self._lock:
            assert self._client.stdin is not None
            assert self._client.stdout is not None
            self._client.stdin.write(json.dumps(words).encode() + b"\n")
            self._client.stdin.flush()
            return json.loads(self._client.stdout.readline())

    def _spawn(self, unit: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{unit}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self._environ,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if unit == "client" else log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill all of it."""
        for process in self._processes:
            kill_all(family(process.pid))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Rq(Peer):
    """`rq worker`: the worker supervises, and forks a work-horse for each job."""

    name = "rq"
    packages = ("rq", "redis")

    def command(self, unit: str, queues: Sequence[str]) -> list[str]:
        url = self._environ["RECOVERY_URL"]
        return [str(self._bin / "rq"), "worker", "--url", url, "--name", unit, *queues]


class Dramatiq(Peer):
    """`dramatiq`: a main process supervises worker processes, whose threads run jobs."""

    name = "dramatiq"
    packages = ("dramatiq", "redis")

    def command(self, unit: str, queues: Sequence[str]) -> list[str]:
        return ["-m", "dramatiq", "dramatiq_side", "--queues", *queues]


class Celery(Peer):
    """`celery worker`: the main process supervises a pool of processes (prefork); `acks_late`."""

    name = "celery"
    packages = ("celery", "kombu", "redis")

    def command(self, unit: str, queues: Sequence[str]) -> list[str]:
        return ["-m", "celery", "-A", "celery_side", "worker", "-Q", ",".join(queues), "-n", f"{unit}@%h"]


class Ray(Peer):
    """Ray tasks: a raylet, one a node, supervises the processes that run them; a node's all are "host"."""

    name = "ray"
    packages = ("ray",)
    busy: tuple[Part, ...] = ("job", "supervisor", "host", "cut")
    idle: tuple[Part, ...] = ("host",)
    prefix = (
        *("unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])),
        *("sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
    )

    def start_unit(self, number: int) -> None:
        self._units.append(int(self._ask("node", 1)))

    def start_standby(self, count: int) -> None:
        self._ask("node", count)


class RayActor(Ray):
    """Ray actors: by default they are not restarted."""

    name = "ray_actor"
    busy: tuple[Part, ...] = ("job",)
    idle: tuple[Part, ...] = ()


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Rq, Dramatiq, Celery, Ray, RayActor)}
