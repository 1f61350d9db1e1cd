"""One connection to the broker, for one thread: pack, send, read. No retries here (see `broker`, `mux`).

`reach` makes the connection; requests are packed and replies parsed by hiredis alone, because a worker's step and a
client's batch are dominated by that code: measured, a round trip costs a quarter of the CPU of redis-py's client.
"""

from __future__ import annotations

import os
import select
import ssl
from typing import TYPE_CHECKING, Any

import hiredis

from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable, Deposed
from flashq.model.address import masked
from flashq.store.dial import hang_up
from flashq.store.reach import open_connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from flashq.store.command import Command, Value
    from flashq.store.scripts import Library

REPLY_TIMEOUT_S = 15.0
_READ = 256 * 1024
_NOT_READY = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "UNBLOCKED"})
"""First words of refusals that mean: connect anew, perhaps to another server. The last two are a replica's."""
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LibraryMissing(BrokerError):
    """The broker does not hold our function library (yet, or any more): load it and send again."""


def refusal(error: Exception) -> Exception:
    """What an error reply (hiredis's or redis-py's) means, as one of our errors."""
    message = str(error)
    if "Function not found" in message:
        return LibraryMissing(message)
    word = message.split(" ", 1)[0]
    meanings = {
        "OOM": "it is out of memory (maxmemory reached)",
        "MISCONF": "it cannot write to its disk",
        "NOAUTH": "it wants a password (put it into FLASHQ_REDIS_URL)",
        "WRONGPASS": "the user name or password in FLASHQ_REDIS_URL is wrong",
        "NOPERM": "this user may not do that",
    }
    if word in _NOT_READY:
        return BrokerUnreachable(f"the broker is not ready: {message}")
    if word == "DEPOSED":
        return Deposed(message.partition(" ")[2])
    if word in meanings:
        return BrokerRefused(f"the broker refused: {meanings[word]} ({message})")
    return BrokerRefused(f"the broker refused: {message}")


class Line:
    """A connection with its parser. Use from one thread; after any BrokerUnreachable it is closed for good."""

    def __init__(self, url: str, *, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Raises: BrokerUnreachable, BrokerUntrusted, BrokerRefused."""
        self._url = url
        self._ours = False  # the socket, to be closed
        self._socket: socket.socket = open_connection(url)
        self._ours, self._opened_by = True, os.getpid()
        # Non-blocking, and waited for only where it would block: with a timeout set, Python polls before each call.
        self._socket.setblocking(False)
        self._timeout_s = reply_timeout_s
        self._reader = hiredis.Reader()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        if self._ours:
            hang_up(self._socket, self._opened_by)

    def __del__(self) -> None:
        self.close()

    def detach(self) -> socket.socket:
        """The connected, non-blocking socket, for whoever speaks for itself; the line is of no more use."""
        self._ours = False
        return self._socket

    def _lost(self, error: object) -> BrokerUnreachable:
        self.close()
        return BrokerUnreachable(f"lost the broker at {masked(self._url)}: {error}")

    def _until(self, event: int, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(timeout_s * 1000):
            raise self._lost(f"no answer within {timeout_s:g} s")

    def send(self, packed: bytes) -> None:
        """Send what `pack` or `pack_script` made (one request or many)."""
        try:
            sent = self._socket.send(packed)
        except _WOULD_BLOCK:
            sent = 0
        except OSError as error:
            raise self._lost(error) from None
        if sent < len(packed):
            self._send_rest(memoryview(packed)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            self._until(select.POLLOUT, self._timeout_s)
            try:
                rest = rest[self._socket.send(rest) :]
            except _WOULD_BLOCK:
                continue
            except OSError as error:
                raise self._lost(error) from None

    def _feed(self) -> int:
        """Take in what is there, without waiting: how many bytes."""
        try:
            data = self._socket.recv(_READ)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost("it closed the connection")
        self._reader.feed(data)
        return len(data)

    def read(self, timeout_s: float | None = None) -> Any:
        """The next reply, waited for. An error reply is returned as a value (hiredis.ReplyError)."""
        while (reply := self._reader.gets()) is False:
            if not self._feed():
                self._until(select.POLLIN, self._timeout_s if timeout_s is None else timeout_s)
        return reply

    def receive(self) -> list[Any]:
        """Every reply that is there now, without waiting."""
        while self._feed() == _READ:
            continue
        replies = []
        while (reply := self._reader.gets()) is not False:
            replies.append(reply)
        return replies

    def call(self, packed: bytes, timeout_s: float | None = None) -> Any:
        """Send one request and wait for its reply; error replies are raised."""
        self.send(packed)
        reply = self.read(timeout_s)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(reply)
        return reply


def pack(*parts: Value) -> bytes:
    """One request as bytes."""
    return bytes(hiredis.pack_command(parts))  # type: ignore[arg-type]  # its stub knows no invariance


def pack_script(command: Command[Any], library: Library) -> bytes:
    """A script's call as bytes."""
    request = ("FCALL", library.function(command.script), 1, command.key, *command.args)
    return bytes(hiredis.pack_command(request))  # type: ignore[arg-type]


def pack_all(commands: Iterable[Command[Any]], library: Library) -> bytes:
    """Several calls as bytes, to be sent at once; the replies come in the same order."""
    return b"".join([pack_script(command, library) for command in commands])
