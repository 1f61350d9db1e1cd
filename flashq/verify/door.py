"""A proxy before the broker, through which a campaign's processes reach it, and where their connections suffer.

It listens on a unix socket, so it knows which process each connection belongs to. Connections can be cut, held (no
byte passes) and delayed, by process; and a trap waits for the next call of a script, whoever makes it, and acts before
it passes, once it was carried out, or once its reply was heard. One thread moves the bytes; another accepts, since
reaching the broker may take a while.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flashq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from flashq.verify.schedule import Moment

_READ = 256 * 1024
_MOST_HELD = 1 << 20
_TICK_S = 0.01
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What connections of these processes suffer until a time; None: of all."""

    what: Literal["hold", "delay"]
    pids: frozenset[int] | None
    until: float
    by_s: float = 0.0

    def concerns(self, pid: int) -> bool:
        return self.pids is None or pid in self.pids


@dataclass(slots=True)
class Trap:
    """Waits for one call. `caught`: the process that made it, once it has."""

    script: str
    moment: Moment
    pids: frozenset[int] | None
    action: Callable[[int], None]
    caught: int | None = None

    @property
    def pattern(self) -> bytes:
        return f"_{self.script}\r\n".encode()


class _Way:
    """One direction of a link: bytes on their way from `source` to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.queue: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False

    def put(self, data: bytes, due: float) -> None:
        self.queue.append((due, data))
        self.size += len(data)

    def push(self, now: float) -> None:
        """Send what is due, as far as it is taken. Raises OSError where the other side is gone."""
        while self.queue and self.queue[0][0] <= now:
            due, data = self.queue.popleft()
            try:
                sent = self.sink.send(data)
            except _WOULD_BLOCK:
                sent = 0
            self.size -= sent
            if sent < len(data):
                self.queue.appendleft((due, data[sent:]))
                return


class _Link:
    """A process's connection and its continuation to the broker."""

    def __init__(self, client: socket.socket, server: socket.socket, pid: int) -> None:
        self.pid = pid
        self.up, self.down = _Way(client, server), _Way(server, client)
        self.trap: Trap | None = None
        """Sprung by a call whose reply is still to come."""
        self.held = False

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.up.source, self.up.sink


class Door:
    """Listens at `path`, and reaches the broker by `dial()`, which may raise OSError or BrokerError."""

    def __init__(self, path: Path, dial: Callable[[], socket.socket]) -> None:
        self.url = f"unix://{path}"
        self._dial = dial
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._lock = threading.Lock()
        self._new: list[_Link] = []
        self._links: set[_Link] = set()
        self._rules: list[_Rule] = []
        self._cuts: list[frozenset[int] | None] = []
        self._traps: list[Trap] = []
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._threads = [
            threading.Thread(target=target, name=f"door-{target.__name__}", daemon=True)
            for target in (self._accept, self._run)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End every connection."""
        self._closing = True
        self._wake()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for one in (self._wake_r, self._wake_w):
            one.close()
        self._selector.close()

    # -- what connections suffer ---------------------------------------------------------------------
    def cut(self, pids: Iterable[int] | None = None) -> None:
        """End the connections of these processes (None: of all)."""
        with self._lock:
            self._cuts.append(None if pids is None else frozenset(pids))
        self._wake()

    def hold(self, pids: Iterable[int] | None, lasts_s: float) -> None:
        """Let no byte of theirs pass for a while; then all that was under way."""
        self._add(_Rule("hold", None if pids is None else frozenset(pids), time.monotonic() + lasts_s))

    def delay(self, pids: Iterable[int] | None, by_s: float, lasts_s: float) -> None:
        """Have every byte of theirs come later, for a while."""
        concerned = None if pids is None else frozenset(pids)
        self._add(_Rule("delay", concerned, time.monotonic() + lasts_s, by_s))

    def lay(self, trap: Trap) -> None:
        """Have a trap wait for its call. It springs once."""
        with self._lock:
            self._traps.append(trap)

    def take_away(self, trap: Trap) -> bool:
        """Have it wait no longer; False where it has sprung."""
        with self._lock:
            if trap in self._traps:
                self._traps.remove(trap)
                return True
        return False

    def pids(self) -> set[int]:
        """The processes that are connected."""
        with self._lock:
            return {link.pid for link in self._links}

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_w.send(b"\0")

    # -- accepting -----------------------------------------------------------------------------------
    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._dial()
            except (OSError, BrokerError):
                client.close()
                continue
            for one in (client, server):
                one.setblocking(False)
            with self._lock:
                self._new.append(_Link(client, server, _owner(client)))
            self._wake()

    # -- moving bytes --------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._closing:
                events = self._selector.select(self._timeout_s())
                self._take_in_changes()
                for key, mask in events:
                    if key.data is not None and key.data in self._links:
                        self._serve(key.data, key.fileobj, mask)
                self._send_what_is_due()
        finally:
            for link in list(self._links):
                self._end(link)
            for link in self._new:
                for one in link.sockets:
                    one.close()

    def _timeout_s(self) -> float | None:
        waiting = self._rules or any(way.queue for link in self._links for way in (link.up, link.down))
        return _TICK_S if waiting else None

    def _take_in_changes(self) -> None:
        with contextlib.suppress(*_WOULD_BLOCK):
            self._wake_r.recv(4096)
        now = time.monotonic()
        with self._lock:
            if not (self._new or self._cuts or self._rules):
                return
            fresh, self._new = self._new, []
            cuts, self._cuts = self._cuts, []
            self._rules = [rule for rule in self._rules if rule.until > now]
            self._links.update(fresh)
        for pids in cuts:
            for link in list(self._links):
                if pids is None or link.pid in pids:
                    self._end(link)
        for link in self._links:
            link.held = any(rule.what == "hold" and rule.concerns(link.pid) for rule in self._rules)
            self._watch(link)

    def _watch(self, link: _Link) -> None:
        """Have the selector wait for what can be done about a link."""
        for way, back in ((link.up, link.down), (link.down, link.up)):
            wanted = 0
            if not (link.held or way.ended) and way.size < _MOST_HELD:
                wanted |= selectors.EVENT_READ
            if not link.held and back.queue and back.queue[0][0] <= time.monotonic():
                wanted |= selectors.EVENT_WRITE  # this socket is the sink of the other way
            known = self._selector.get_map().get(way.source)
            if known is None and wanted:
                self._selector.register(way.source, wanted, link)
            elif known is not None and not wanted:
                self._selector.unregister(way.source)
            elif known is not None and known.events != wanted:
                self._selector.modify(way.source, wanted, link)

    def _serve(self, link: _Link, source: object, mask: int) -> None:
        way = link.up if source is link.up.source else link.down
        try:
            if mask & selectors.EVENT_READ:
                self._read(link, way)
            if link in self._links:
                link.up.push(time.monotonic())
                link.down.push(time.monotonic())
        except OSError:
            self._end(link)
        if link in self._links:
            self._finish(link)

    def _read(self, link: _Link, way: _Way) -> None:
        while link in self._links and not way.ended:
            try:
                data = way.source.recv(_READ)
            except _WOULD_BLOCK:
                return
            way.ended = not data
            if data:
                self._pass_on(link, way, data)
            if not isinstance(way.source, ssl.SSLSocket):  # else what it has decrypted wakes no selector
                return

    def _pass_on(self, link: _Link, way: _Way, data: bytes) -> None:
        due = time.monotonic() + sum(
            rule.by_s for rule in self._rules if rule.what == "delay" and rule.concerns(link.pid)
        )
        if way is link.up:
            trap = self._trap_for(link.pid, data)
            if trap is not None and trap.moment == "before":
                self._spring(link, trap)
                return
            link.trap = link.trap or trap
            way.put(data, due)
        elif link.trap is None:
            way.put(data, due)
        else:
            if link.trap.moment == "told":
                with contextlib.suppress(OSError):
                    way.sink.send(data)
            self._spring(link, link.trap)

    def _trap_for(self, pid: int, data: bytes) -> Trap | None:
        with self._lock:
            for trap in self._traps:
                if trap.pattern in data and (trap.pids is None or pid in trap.pids):
                    self._traps.remove(trap)
                    return trap
        return None

    def _spring(self, link: _Link, trap: Trap) -> None:
        trap.action(link.pid)
        trap.caught = link.pid
        self._end(link)

    def _finish(self, link: _Link) -> None:
        """End a link of which one side has ended and all that it said was passed on."""
        if (link.up.ended and not link.up.queue) or (link.down.ended and not link.down.queue):
            self._end(link)
        else:
            self._watch(link)

    def _send_what_is_due(self) -> None:
        now = time.monotonic()
        for link in list(self._links):
            if link.held or not (link.up.queue or link.down.queue):
                continue
            try:
                link.up.push(now)
                link.down.push(now)
            except OSError:
                self._end(link)
                continue
            self._finish(link)

    def _end(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        for one in link.sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()


def _owner(client: socket.socket) -> int:
    """The process at the other end of a unix socket."""
    given = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", given)[0])
