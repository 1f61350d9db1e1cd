"""A connection to a broker's unix socket made of nothing but the standard library.

For processes that must be there at once: importing redis-py costs more than all the rest of them. One thread,
one request at a time, no retries.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from flashq.errors import BrokerRefused, BrokerUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.store.command import Command, Value


class BareConnection:
    """Raises BrokerUnreachable where nobody answers within `timeout_s`."""

    def __init__(self, path: Path, *, password: str = "", timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise BrokerUnreachable(f"no broker at {path}: {error.strerror or error}") from None
        self._stream = self._socket.makefile("rb")
        if password:
            self.call("AUTH", password)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def call(self, *parts: Value) -> Any:
        """One command and its reply: bytes, int, list or None.

        Raises: BrokerUnreachable (also while it loads its data), BrokerRefused.
        """
        encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        request = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in encoded)
        try:
            self._socket.sendall(request)
            reply = self._read()
        except OSError as error:
            raise BrokerUnreachable(f"lost the broker: {error}") from None
        if isinstance(reply, BrokerRefused):
            if str(reply).startswith("LOADING"):
                raise BrokerUnreachable(str(reply))
            raise reply
        return reply

    def run(self, command: Command[Any]) -> Any:
        """Carry out a script's call."""
        from flashq.store.scripts import plain

        return command.answer(self.call("EVAL", plain(command.script), 1, command.key, *command.args))

    def _read(self) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("it closed the connection")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                return BrokerRefused(rest.decode("utf-8", "replace"))
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._stream.read(int(rest) + 2)[:-2]
            case b"*":
                return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
            case _:
                raise ConnectionError(f"it answered {line[:40]!r}")
