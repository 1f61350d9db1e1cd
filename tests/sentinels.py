"""A primary, its replicas and three sentinels on this machine, for tests of what a failover does."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import BrokerError
from flashq.store.broker import Broker
from tests.rig import BrokerServer, free_port, halt, wait_until
from tests.servers import find_server

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE = "main"
FAILOVER_S = 30.0
"""How long a failover may take."""
_SENTINELS = 3
_DOWN_AFTER_MS = 700


class SentinelSet(BrokerServer):
    """What stands behind a `redis+sentinel://` address. `kill` and `start` are of the server that is primary."""

    def __init__(self, server: str = "valkey", *, replicas: int = 1, arguments: Sequence[str] = ()) -> None:
        self._program = find_server(server)
        self._arguments = arguments
        self.folder = Path(tempfile.mkdtemp(prefix="fq-sentinel-"))
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.ports = [free_port() for _ in range(1 + replicas)]
        self.sentinels = [free_port() for _ in range(_SENTINELS)]
        where = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.url = f"redis+sentinel://{where}/{SERVICE}/0"
        self.start()

    # -- servers -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start what does not run: at first everything, later a server that was killed."""
        first, *others = self.ports
        fresh = not self._running
        for port in self.ports:
            if port not in self._running:
                self._start_server(port, replica_of=first if fresh and port in others else None)
        if fresh:
            in_step = [["slave", "connected"]] * len(others)
            wait_until(lambda: [self.role(port) for port in others] == in_step, what="replicas in step")
            for port in self.sentinels:
                self._start_sentinel(port, first)
            wait_until(self._agreed, FAILOVER_S, what="the sentinels know each other and the replicas")

    def _start_server(self, port: int, replica_of: int | None) -> None:
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]
        if replica_of is not None:
            options += ["--replicaof", "127.0.0.1", str(replica_of)]
        self._launch(port, [*options, *self._arguments])

    def _start_sentinel(self, port: int, primary: int) -> None:
        file = self.folder / f"sentinel-{port}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self._launch(port, [str(file), "--sentinel"])

    def _launch(self, port: int, arguments: Sequence[str]) -> None:
        assert self._program is not None
        with (self.folder / f"{port}.log").open("ab") as log:
            self._running[port] = subprocess.Popen(
                [self._program, *arguments], stdout=log, stderr=log, start_new_session=True
            )
        with closing(Broker(f"redis://127.0.0.1:{port}", patience_s=10.0)) as broker:
            broker.execute("PING")

    # -- how they stand ------------------------------------------------------------------------------
    def ask(self, port: int, *parts: str) -> object:
        """One command to one server."""
        with closing(Broker(f"redis://127.0.0.1:{port}", patience_s=0.0)) as broker:
            return broker.execute(*parts)

    def role(self, port: int) -> list[str]:
        """["master"], or ["slave", how its link to the primary stands]; [] where it does not answer."""
        with contextlib.suppress(BrokerError):
            reply = self.ask(port, "ROLE")
            assert isinstance(reply, list)
            return [reply[0].decode()] if reply[0] == b"master" else [reply[0].decode(), reply[3].decode()]
        return []

    def _agreed(self) -> bool:
        for port in self.sentinels:
            known = [self.ask(port, "SENTINEL", what, SERVICE) for what in ("SENTINELS", "REPLICAS")]
            if [len(rows) if isinstance(rows, list) else 0 for rows in known] != [
                _SENTINELS - 1,
                len(self.ports) - 1,
            ]:
                return False
        return True

    @property
    def primary(self) -> int:
        """The port of the server that says that it is the primary; the first, where there are two."""
        return next(port for port in self.ports if self.role(port) == ["master"])

    @property
    def replicas(self) -> list[int]:
        """The ports of the others."""
        primary = self.primary
        return [port for port in self.ports if port != primary]

    def send(self, port: int, which: signal.Signals) -> None:
        if which is signal.SIGSTOP:
            halt(self._running[port].pid)
        else:
            self._running[port].send_signal(which)

    def on_record(self, key: str) -> bool:
        """Whether every server has this key."""
        return all(self.ask(port, "EXISTS", key) for port in self.ports)

    def cut_replication(self) -> None:
        """Have the replicas hear nothing more."""
        primary = self.primary
        for port in self.replicas:
            self.send(port, signal.SIGSTOP)
        self.ask(primary, "CLIENT", "KILL", "TYPE", "replica")  # or they would find the rest in their sockets

    def fail_over(self) -> float:
        """Kill the primary and wake the replicas; after how many seconds one of them has taken over."""
        began, old = time.monotonic(), self.primary
        self.kill()
        for port in self.ports:
            if port != old:
                self.send(port, signal.SIGCONT)
        self.await_failover(old)
        return time.monotonic() - began

    def await_failover(self, old: int) -> None:
        """Until another server than `old` is the primary, by its own word and the sentinels'."""

        def moved() -> bool:
            others = [port for port in self.ports if port != old and self.role(port) == ["master"]]
            named = self.ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return bool(others) and isinstance(named, list) and int(named[1]) == others[0]

        wait_until(moved, FAILOVER_S, what="another primary")

    # -- ending --------------------------------------------------------------------------------------
    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the primary."""
        self._end(self.primary, how)

    def _end(self, port: int, how: signal.Signals) -> None:
        process = self._running.pop(port)
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        process.wait()

    def close(self) -> None:
        for port in list(self._running):
            self._end(port, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
