"""A broker of the campaign's own: it may be killed, stopped and started again on the data it kept."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

from flashq.embedded.child import guard_command
from flashq.embedded.server import find_server
from flashq.errors import BrokerError, BrokerUnreachable
from flashq.store.bare import BareConnection

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_START_S = 30.0
_ANSWER_S = 0.5


class OwnBroker:
    """A server on a unix socket in `folder`, with its append-only file in `data`. Raises BrokerError as it starts."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: str = "always",
        data: Path | None = None,
        server: Path | None = None,
        further: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`fsync`: "always" or "everysec"; `further`: more of its arguments; `env`: its variables, if not ours."""
        self.socket = folder / "broker.sock"
        self.data = folder / "data" if data is None else data
        self.data.mkdir(exist_ok=True)
        self.fsync = fsync
        self._log = folder / "broker.log"
        self._command = [
            str(server or find_server()),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data), "--save", "", "--appendonly", "yes", "--appendfsync", fsync),
            *("--maxmemory-policy", "noeviction", *further),
        ]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_pipe = -1
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.socket}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        self._watch_over(self._process.pid)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"{self._command[0]} does not start (log: {self._log})")
            time.sleep(0.01)

    def _watch_over(self, pid: int) -> None:
        """Have it killed when this process dies."""
        self._dismiss()
        read, self._guard_pipe = os.pipe()
        self._guard = subprocess.Popen(guard_command(pid), stdin=read, start_new_session=True)
        os.close(read)

    def _dismiss(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            os.close(self._guard_pipe)
            self._guard = None

    def _answers(self) -> bool:
        try:
            with contextlib.closing(BareConnection(self.socket, timeout_s=1.0)) as connection:
                connection.call("PING")
        except BrokerUnreachable:
            return False
        return True

    def call(self, *parts: str | int) -> object:
        """One plain command; who asks is not to be held up by a broker that is stopped.

        Raises BrokerUnreachable, BrokerRefused.
        """
        with contextlib.closing(BareConnection(self.socket, timeout_s=_ANSWER_S)) as connection:
            return connection.call(*parts)

    def signal(self, number: signal.Signals) -> None:
        """Signal it."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._dismiss()
