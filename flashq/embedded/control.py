"""The keeper's side of the conversation with scripts and commands: JSON lines over a unix socket.

An open connection *is* membership: the kernel closes it however its process ends. Knows nothing of what the
messages mean.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LONGEST_LINE = 64 * 1024

Message = dict[str, Any]


class Connection:
    """One script or command. `asked` is its message that has no answer yet."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.socket = link
        self.asked: Message | None = None
        self.up = False
        """It is a `flashq up` in the foreground."""
        self._received = b""

    def send(self, message: Message) -> None:
        """Send a line. To one who does not listen (its buffer is full) or is gone, nothing is sent."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """What has arrived; None at the end of the connection, and for what is not our protocol."""
        try:
            data = self.socket.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        if not data or len(self._received) > _LONGEST_LINE:
            return None
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(message, dict) for message in messages) else None


class Control:
    """Every connection, and the socket on which new ones arrive."""

    def __init__(
        self, selector: selectors.BaseSelector, on_message: Callable[[Connection, Message], None]
    ) -> None:
        self.connections: set[Connection] = set()
        self._selector = selector
        self._on_message = on_message
        self._listener: socket.socket | None = None

    def listen(self, path: Path) -> None:
        """Answer at `path`; what is left there of an earlier keeper is removed."""
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def adopt(self, link: socket.socket) -> None:
        """Take in a connection that exists already."""
        connection = Connection(link)
        self.connections.add(connection)
        self._selector.register(link, selectors.EVENT_READ, lambda: self._read(connection))

    def close_listener(self) -> None:
        """Answer nobody new; whoever was about to connect sees the connection closed."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _accept(self) -> None:
        try:
            while self._listener is not None:
                self.adopt(self._listener.accept()[0])
        except BlockingIOError:
            return
        except OSError:  # out of descriptors, say: it is tried again, but not at once
            time.sleep(0.05)

    def _read(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages is None:
            self.drop(connection)
            return
        for message in messages:
            self._on_message(connection, message)
