"""Proxies before the broker: one acts at a chosen script call (before it, after it, after its reply), one holds up."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Moment = Literal["before", "half", "after", "late", "reply"]


def _end(*sockets: socket.socket) -> None:
    """Close connections, also under the feet of a thread that reads from them."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class Tripwire:
    """`arm(script, moment, action)`: `action` runs once, when the next call of `script` passes.

    before: the broker has not seen the call; half: it has seen half of it; after: it has carried it out, and its
    reply is lost; late: its reply is delivered once `action` returns; reply: the reply was delivered. But for late,
    the connection is closed then. Replies are matched by counting on connections that carry one call at a time.
    """

    def __init__(self, target: Path, place: Path) -> None:
        self.url = f"unix://{place}"
        self._target = target
        self._lock = threading.Lock()
        self._armed: tuple[bytes, Moment, Callable[[], None]] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen(64)
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, script: str, moment: Moment, action: Callable[[], None]) -> None:
        with self._lock:
            self._armed = (f"_{script}\r\n".encode(), moment, action)

    @property
    def armed(self) -> bool:
        return self._armed is not None

    def close(self) -> None:
        _end(self._listener, *self._sockets)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                client.close()
                server.close()
                continue
            self._sockets += [client, server]
            held = threading.Event()
            held.set()
            pending: list[tuple[Moment, Callable[[], None]]] = []
            for source, sink, outbound in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, outbound, pending), daemon=True
                ).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        outbound: bool,
        pending: list[tuple[Moment, Callable[[], None]]],
    ) -> None:
        try:
            while data := source.recv(1 << 20):
                trip = self._trip(data) if outbound else None
                if trip is not None and trip[0] in ("before", "half"):
                    sink.sendall(data[: len(data) // 2 if trip[0] == "half" else 0])
                    trip[1]()
                    return
                if trip is not None:
                    pending.append(trip)
                if not outbound and pending:
                    moment, action = pending.pop()
                    if moment == "reply":
                        sink.sendall(data)
                    action()
                    if moment != "late":
                        return
                sink.sendall(data)
        except OSError:
            return
        finally:
            _end(source, sink)

    def _trip(self, data: bytes) -> tuple[Moment, Callable[[], None]] | None:
        with self._lock:
            if self._armed is None or self._armed[0] not in data:
                return None
            _, moment, action = self._armed
            self._armed = None
            return moment, action


class Partition:
    """A network that holds up what is sent, in one direction or both, for as long as a test wants.

    Connections stay, and what was held up arrives in its order afterwards, as with TCP.
    """

    def __init__(self, target: Path, place: Path) -> None:
        self.url = f"unix://{place}"
        self._target = target
        self.to_broker, self.from_broker = threading.Event(), threading.Event()
        self._sockets = [socket.socket(socket.AF_UNIX)]
        self._sockets[0].bind(str(place))
        self._sockets[0].listen(64)
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes any more."""
        self.to_broker.clear()
        self.from_broker.clear()

    def heal(self) -> None:
        """Everything passes, what was held up first."""
        self.to_broker.set()
        self.from_broker.set()

    def close(self) -> None:
        _end(*self._sockets)
        self.heal()  # the threads see closed sockets, and end

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sockets[0].accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
            except OSError:
                return
            self._sockets += [client, server]
            for source, sink, passes in (
                (client, server, self.to_broker),
                (server, client, self.from_broker),
            ):
                threading.Thread(target=self._pump, args=(source, sink, passes), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, passes: threading.Event) -> None:
        try:
            while data := source.recv(1 << 20):
                passes.wait()
                sink.sendall(data)
        except OSError:
            return
        finally:
            _end(source, sink)
