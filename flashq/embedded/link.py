"""A connection to the keeper, from the side of scripts and commands: JSON lines, one question at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any

from flashq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.embedded.places import Places

SILENCE_S = 60.0
"""How long a keeper may say nothing; one that is busy starting or stopping says so every second."""
_LONG = 3
"""After so many times of saying so it takes long."""


class Stopping(Exception):
    """The keeper is about to end (`told`), or has closed the connection; control flow within this package."""

    def __init__(self, *, told: bool = False) -> None:
        super().__init__()
        self.told = told


class Link:
    """The stack stays for as long as this is open. A forked child closes its copy."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = b""
        _open_links.add(self)

    def close(self) -> None:
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether the keeper is there, and has not said that it will end."""
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # the end of it, or its last words

    def ask(
        self,
        message: dict[str, Any],
        timeout_s: float = SILENCE_S,
        tell: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Send a message and wait for its answer; each sign of life starts the wait anew.

        `tell` is told, once, what a long wait is for. Raises: Stopping; BrokerError where the keeper is silent.
        """
        self.send(message)
        waits = 0
        while "waiting" in (answer := self._read(timeout_s)):
            waits += 1
            if waits == _LONG and tell is not None:
                tell(answer["waiting"])
        if "stopping" in answer:
            raise Stopping(told=True)
        return answer

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; its answer is still to be read. Raises Stopping."""
        try:
            self._socket.settimeout(SILENCE_S)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise Stopping from None

    def await_end(self, within_s: float | None = None) -> dict[str, Any]:
        """What the keeper says until it closes the connection, all in one: `stopped`, or `error`.

        Raises BrokerError where it has not after `within_s` (None: however long it takes).
        """
        said: dict[str, Any] = {}
        deadline = None if within_s is None else time.monotonic() + within_s
        with contextlib.suppress(Stopping):
            while True:
                said |= self._read(None if deadline is None else max(0.01, deadline - time.monotonic()))
        return said

    def _read(self, timeout_s: float | None) -> dict[str, Any]:
        """The next line. Raises: Stopping, BrokerError."""
        try:
            self._socket.settimeout(timeout_s)
            while b"\n" not in self._received:
                data = self._socket.recv(64 * 1024)
                if not data:
                    raise Stopping
                self._received += data
            line, _, self._received = self._received.partition(b"\n")
            answer: dict[str, Any] = json.loads(line)
        except TimeoutError:
            raise BrokerError(f"the private broker's keeper says nothing for {timeout_s:.0f} s") from None
        except (OSError, ValueError):
            raise Stopping from None
        return answer


def connect(places: Places) -> Link | None:
    """A connection to the keeper of a home; None where none runs."""
    try:
        path = json.loads(places.record.read_text("utf-8"))["control"]
    except (OSError, ValueError, KeyError):
        return None
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(SILENCE_S)
    try:
        connected.connect(path)
    except OSError:  # left there by a keeper that was killed
        connected.close()
        return None
    return Link(connected)


_open_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _close_inherited() -> None:
    """In a forked child: its copies must not keep the stack alive once the parent has gone."""
    for link in list(_open_links):
        link.close()


os.register_at_fork(after_in_child=_close_inherited)
