"""A broker, a client, host agents and autoscalers as processes: everything that a user's call meets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil

from tests.rig import SECRET, Rig

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.endpoint_function import EndpointFunction


class Stack:
    """A rig with a host agent and an autoscaler beside it, and with more of them as a test wants."""

    def __init__(self, rig: Rig, *host_options: str) -> None:
        self.rig = rig
        self._processes: list[subprocess.Popen[bytes]] = []
        self.host = self.start("host", *host_options)
        self.autoscaler = self.start("autoscaler")

    def hosts(self) -> list[str]:
        """The hosts on record."""
        broker = self.rig.broker
        return [name.decode() for name in broker.execute("ZRANGE", broker.keys.of("hosts"), 0, -1)]

    def start(
        self, command: str, *further: str, name: str = "", home: Path | None = None, url: str = ""
    ) -> subprocess.Popen[bytes]:
        """Run `flashq COMMAND`; its log goes by `name`."""
        variables = {
            "FLASHQ_REDIS_URL": url or self.rig.server.url,
            "FLASHQ_SECRET_KEY": SECRET.hex(),
            "FLASHQ_HOME": str(home or self.rig.home),
            "FLASHQ_LEASE_S": str(self.rig.lease_s),
        }
        with self._log(name or command).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flashq", command, *further],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.rig.server.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """What `flashq host` or `flashq autoscaler` has written."""
        return self._log(name).read_text("utf-8", "replace")

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
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    found = psutil.Process(pid)
    return [found, *found.children(recursive=True)]


class Peak:
    """How many workers an endpoint had at most, by its events: none is missed, however short it lived."""

    def __init__(self, stack: Stack, endpoint: EndpointFunction[Any, Any]) -> None:
        self.most = 0
        self._stack, self._endpoint = stack, endpoint

    def __enter__(self) -> Peak:
        broker = self._stack.rig.broker
        self._stream = broker.keys.of("endpoint_events", self._endpoint.name)
        (seconds, micros) = broker.execute("TIME")
        self._since = f"{int(seconds) * 1000 + int(micros) // 1000}"
        self.most = len(self._stack.workers(self._endpoint))
        return self

    def __exit__(self, *_: object) -> None:
        live = self.most
        for _, fields in self._stack.rig.broker.execute("XRANGE", self._stream, self._since, "+"):
            kind = fields[fields.index(b"kind") + 1]
            live += (kind == b"worker-ordered") - (kind in (b"worker-ended", b"worker-lost"))
            self.most = max(self.most, live)
