"""A real broker, a real client and real workers in one test: what integration tests are made of."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.client import Client, use_client
from flashq.model.keyring import Keyring
from flashq.settings import SecretKey, Settings
from flashq.store.broker import Broker
from flashq_worker.config import WorkerConfig
from tests.servers import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flashq.endpoint_function import EndpointFunction

SECRET = bytes(range(32))


def free_port() -> int:
    """A TCP port of this machine that nobody uses, until somebody else takes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0, what: str = "") -> Any:
    """Wait for a true value of `condition` and return it; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(0.01)


def halt(pid: int) -> None:
    """Stop a process, and wait until it stands still: on a busy machine its threads go on until their next turn."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")

    def still() -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread, or all of it, has ended
            return all(
                (task / "stat").read_text().rpartition(") ")[2][0] in "TtZX" for task in tasks.iterdir()
            )
        return not tasks.exists()

    wait_until(still, what=f"process {pid} stands still")


class BrokerServer:
    """A private broker on a unix socket; can be killed and started again on the same data."""

    def __init__(
        self,
        server: str = "valkey",
        *,
        appendonly: str = "everysec",
        arguments: Sequence[str] = (),
        url: str | None = None,
        password: str = "",
    ) -> None:
        """`arguments`: further ones of the server's program; `url`: how it is reached, if not by its socket."""
        self._program = find_server(server)
        self.folder = Path(tempfile.mkdtemp(prefix="fq-broker-"))
        self.socket_url = f"unix://{f':{password}@' if password else ''}{self.folder}/s"
        self.url = url or self.socket_url
        self._fsync = appendonly
        self._arguments: Sequence[str] = [*arguments, *(("--requirepass", password) if password else ())]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert self._program is not None
        log = (self.folder / "log").open("ab")
        where = ("--port", "0", "--unixsocket", self.folder / "s", "--dir", self.folder)
        kept = ("--save", "", "--appendonly", "yes", "--appendfsync", self._fsync)
        self._process = subprocess.Popen(
            [self._program, *where, *kept, *self._arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
            restore_signals=False,  # so that a file that may grow no more is an error to it, and not its end
        )
        log.close()
        with contextlib.closing(Broker(self.socket_url, patience_s=10.0)) as broker:
            assert broker.execute("PING") in (b"PONG", "PONG")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def disk_holds(self, further: int | None) -> None:
        """Let no file of the broker's grow beyond the largest one's size and `further` bytes; None: any may."""
        limit = resource.RLIM_INFINITY
        if further is not None:
            limit = max(file.stat().st_size for file in self.folder.rglob("*.aof")) + further
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def ends(self, timeout_s: float = 15.0) -> None:
        """Wait for its end, to which it comes by itself."""
        assert self._process is not None
        self._process.wait(timeout_s)
        self._process = None

    def wipe(self) -> None:
        """Forget all data; only while it is down."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class WorkerProcess:
    """One `python -m flashq_worker`, its output in a file. `under`: a command that runs it."""

    def __init__(
        self, config: WorkerConfig, folder: Path, *, log: Path | None = None, under: Sequence[str] = ()
    ) -> None:
        self.id = config.worker
        self.log = log or folder / f"{config.worker}.log"
        with self.log.open("wb") as log_file:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "flashq_worker"],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(config.to_json().encode())
        self.process.stdin.close()

    def signal(self, which: signal.Signals) -> None:
        if which is signal.SIGSTOP:
            halt(self.process.pid)
        else:
            self.process.send_signal(which)

    def wait(self, timeout_s: float = 15.0) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()


class Rig:
    """A broker, this process's client on it, and workers started by hand."""

    def __init__(
        self, server: str | BrokerServer = "valkey", *, lease_s: float = 2.0, appendonly: str = "everysec"
    ) -> None:
        """`server`: a name in tests/servers.py, or a server that runs already and ends with the rig."""
        self.server = BrokerServer(server, appendonly=appendonly) if isinstance(server, str) else server
        self.home = self.server.folder / "home"
        self.lease_s = lease_s
        self.settings = Settings(
            redis_url=self.server.url, secret_key=SecretKey(SECRET), home=self.home, lease_s=lease_s
        )
        self.keyring = Keyring([SECRET])
        self.key_file: Path | None = None
        """Where programs find the key; None: in a variable."""
        self.client = Client(self.settings)
        self.broker = Broker(self.server.url)
        self.workers: list[WorkerProcess] = []
        self._before = use_client(self.client)

    def register(self, function: EndpointFunction[Any, Any]) -> None:
        """Make an endpoint known without calling it."""
        registration = self.client.registration(function)
        self.broker.run(registration.command(self.broker.transitions))

    def worker(
        self,
        endpoint: EndpointFunction[Any, Any] | str,
        *,
        log: Path | None = None,
        under: Sequence[str] = (),
        **changes: Any,
    ) -> WorkerProcess:
        """Start a worker of an endpoint, with changes of its configuration; `log` and `under`: see WorkerProcess."""
        if not isinstance(endpoint, str):
            self.register(endpoint)
            endpoint = endpoint.name
        config = {
            "url": self.server.url,
            "prefix": "rq",
            "endpoint": endpoint,
            "worker": f"{endpoint}-{uuid.uuid4()}",
            "host": "test",
            "keys": self.keyring.for_endpoint(endpoint),
            "home": self.home,
            "booked": False,
            "lease_s": self.lease_s,
            "grace_s": 1.0,
            "drain_s": 10.0,
        }
        told = WorkerConfig(**{**config, **changes})
        worker = WorkerProcess(told, self.server.folder, log=log, under=under)
        self.workers.append(worker)
        return worker

    def ready_worker(self, endpoint: EndpointFunction[Any, Any], **changes: Any) -> WorkerProcess:
        """Start a worker and wait until it is idle."""
        worker = self.worker(endpoint, **changes)
        wait_until(lambda: self.worker_field(worker.id, "fq_state") == "idle", what=f"{worker.id} idle")
        return worker

    def worker_field(self, worker: str, name: str) -> str:
        value = self.broker.execute("HGET", self.broker.keys.of("worker", worker), name)
        return value.decode() if value is not None else ""

    def job_field(self, job: str, name: str) -> str:
        value = self.broker.execute("HGET", self.broker.keys.of("job", job), name)
        return value.decode("utf-8", "replace") if value is not None else ""

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind, each with the broker's time at which it was noted."""
        entries = self.broker.execute("XRANGE", self.broker.keys.of("events"), "-", "+")
        rows = []
        for entry, fields in entries:
            row: dict[str, Any] = {
                k.decode(): v.decode() for k, v in zip(fields[::2], fields[1::2], strict=True)
            }
            rows.append({**row, "at_ms": int(entry.split(b"-")[0])})
        return [row for row in rows if row["kind"] == kind]

    def close(self) -> None:
        use_client(self._before)
        for worker in self.workers:
            worker.close()
        self.client.close()
        self.broker.close()
        self.server.close()


@contextlib.contextmanager
def rig(**options: Any) -> Iterator[Rig]:
    """A `Rig` for the length of a block."""
    made = Rig(**options)
    try:
        yield made
    finally:
        made.close()
