"""The client's side of the broker: one thread carries every call of a process, and takes in what is pushed.

Commands come from any thread and leave in batches, or, where nothing else is under way, from the caller's thread.
Replies come back in order on the same connection, outcomes on a second one (pub/sub). After a lost connection
everything without an answer is sent again. Callbacks run in the I/O thread and must be short. Knows nothing of jobs:
see `flashq.client`.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from flashq.errors import BrokerRefused, BrokerUnreachable, FlashqError
from flashq.model.durability import Durability
from flashq.store.line import Line, pack
from flashq.store.scripts import library
from flashq.store.server import look
from flashq.store.stream import Callback, CommandStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.model.durability import Server
    from flashq.store.command import Command

log = logging.getLogger("flashq")
_FIRST_PATIENCE_S = 3.0
#: Two flushes within this time are a burst: the thread then gathers for as long before it sends again, unwoken.
#: Waking it for each of many calls costs both threads more than the calls.
_BURST_S = 0.0005
_AT_ONCE_BYTES = 1 << 14  # what a caller sends itself fits into a socket that has nothing else to send


class Multiplexer:
    """Carries commands to the broker from a thread of its own, started with the first one.

    `address()` gives the broker's URL and may take its time (it may start a broker); it is asked again after a
    lost connection. `on_push` gets each message on `channel`; `on_connect` is told of every connection made, and to
    which server; `on_tick` runs about every `tick_s`. A lost broker is waited for `patience_s`; then what is pending
    is answered with BrokerUnreachable, and `on_lost` is told, for whatever else was relied on. A broker that gives
    less than the `durability` wanted is refused.
    """

    def __init__(
        self,
        address: Callable[[], str],
        *,
        channel: str,
        on_push: Callable[[bytes], None],
        on_connect: Callable[[Server], None],
        on_tick: Callable[[], None],
        on_lost: Callable[[Exception], None],
        tick_s: float = 5.0,
        patience_s: float = 60.0,
        durability: Durability | None = None,
    ) -> None:
        self._address = address
        self._channel = channel
        self._on_push, self._on_connect, self._on_tick, self._on_lost = on_push, on_connect, on_tick, on_lost
        self._tick_s, self._patience_s = tick_s, patience_s
        self._library = library()
        self._durability = durability
        self._stream = CommandStream(self._library, confirm=durability is Durability.REPLICA)
        self._push: Line | None = None
        self._poll = select.poll()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_w.setblocking(False)
        self._asleep = False
        self._turn = threading.Lock()
        """Of whoever uses the stream: the I/O thread while it is awake, a caller that sends for it while it sleeps."""
        self._broken: BrokerUnreachable | None = None  # as a caller found the connection
        self._flushed_at = 0.0
        self._closing = False
        self._connected_once = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def send(self, command: Command[Any], callback: Callback) -> None:
        """Carry out a command; `callback(answer, None)` or `callback(None, error)` runs in the I/O thread."""
        alone = self._asleep and not self._stream.busy
        self._stream.add(command, callback)
        if self._thread is None:
            self._start()
        if self._asleep and not (alone and self._send_at_once()):
            self._wake()

    def _send_at_once(self) -> bool:
        """Send what is queued from this thread, while the I/O thread sleeps; whether that was done.

        A single call is spared that thread's waking. Many at once are not: they go together, in its batches.
        """
        if not self._turn.acquire(blocking=False):
            return False
        try:
            stream = self._stream
            if not self._asleep or stream.line is None or not 0 < stream.queued_bytes <= _AT_ONCE_BYTES:
                return False
            try:
                stream.flush()
            except BrokerUnreachable as error:
                self._broken = error
                return False
            except BaseException:  # such as Ctrl-C: nobody knows how much was sent
                self._broken = BrokerUnreachable("a caller was interrupted as it sent")
                self._wake()
                raise
            self._flushed_at = time.monotonic()
            return True
        finally:
            self._turn.release()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is queued, take in its answers, and end; from any thread but the I/O thread."""
        thread = self._thread
        self._closing = True
        if thread is None:
            self._close_wake()
        elif thread.is_alive():
            self._wake()
            thread.join(timeout_s)

    def _close_wake(self) -> None:
        self._wake_r.close()
        self._wake_w.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flashq-io", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full (wakes enough are on their way), or closed
            self._wake_w.send(b"\0")

    # -- in the I/O thread ---------------------------------------------------------------------------
    def _run(self) -> None:
        self._turn.acquire()
        try:
            self._loop()
        except Exception as error:
            log.exception("the connection to the broker failed in an unforeseen way")
            self._give_up(BrokerUnreachable(f"the connection failed: {error!r}"))
        finally:
            self._drop()
            self._asleep = False
            self._turn.release()
            if self._closing:
                self._close_wake()
            else:
                self._thread = None  # the next command starts another

    def _give_up(self, error: Exception) -> None:
        self._stream.fail_all(error)
        self._on_lost(error)

    def _loop(self) -> None:
        next_tick = time.monotonic() + self._tick_s
        while not (self._closing and not self._stream.busy):
            try:
                if self._stream.line is None:
                    self._connect()
                self._stream.check()
                gathering = self._stream.queued and time.monotonic() < self._flushed_at + 2 * _BURST_S
                if self._stream.queued:
                    self._stream.flush()
                    self._flushed_at = time.monotonic()
                if gathering:
                    self._take_in(_BURST_S)  # without announcing sleep: calls come together unwoken
                else:
                    self._wait(max(0.0, next_tick - time.monotonic()))
                if time.monotonic() >= next_tick:
                    self._on_tick()
                    next_tick = time.monotonic() + self._tick_s
            except BrokerUnreachable as error:
                self._drop()
                if self._closing:
                    self._stream.fail_all(error)

    def _drop(self) -> None:
        self._stream.drop()
        if self._push is not None:
            self._push.close()
            self._push = None

    def _connect(self) -> None:
        """Returns connected, or with everything pending answered by the error that keeps us from it."""
        line, push, server = self._reach()
        self._stream.attach(line)
        self._push = push
        self._poll = select.poll()
        for source in (self._wake_r, line, push):
            self._poll.register(source, select.POLLIN)
        self._on_connect(server)
        self._connected_once = True

    def _reach(self) -> tuple[Line, Line, Server]:
        deadline = time.monotonic() + (self._patience_s if self._connected_once else _FIRST_PATIENCE_S)
        pause = 0.02
        while True:
            try:
                return self._open(self._address())
            except FlashqError as error:
                retriable = isinstance(error, BrokerUnreachable) and not self._closing
                if retriable and time.monotonic() + pause < deadline:
                    time.sleep(pause)
                    pause = min(pause * 2, 0.5)
                    continue
                self._give_up(error)
            self._sleep_until_needed()
            deadline = time.monotonic() + _FIRST_PATIENCE_S
            if self._closing:
                raise BrokerUnreachable("closed")

    def _open(self, url: str) -> tuple[Line, Line, Server]:
        with contextlib.ExitStack() as on_failure:
            line = Line(url)
            on_failure.callback(line.close)
            server = look(line)
            if lack := server.lacks(self._durability):
                raise BrokerRefused(lack)
            push = Line(url)
            on_failure.callback(push.close)
            push.call(pack("SUBSCRIBE", self._channel))
            on_failure.pop_all()
        return line, push, server

    def _sleep_until_needed(self) -> None:
        while not self._stream.queued and not self._closing:
            self._asleep = True
            if not self._stream.queued:
                self._wake_r.recv(4096)
            self._asleep = False

    def _wait(self, timeout_s: float) -> None:
        self._asleep = True
        if self._stream.queued:  # added between the flush and the line above: nobody will wake us for it
            timeout_s = 0.0
        self._take_in(timeout_s)

    def _take_in(self, timeout_s: float) -> None:
        line, push = self._stream.line, self._push
        assert line is not None
        assert push is not None
        if self._asleep:
            self._turn.release()
            try:
                found = self._poll.poll(timeout_s * 1000)
            finally:
                self._turn.acquire()
            self._asleep = False
        else:
            found = self._poll.poll(timeout_s * 1000)
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        ready = [fd for fd, _ in found]
        if self._wake_r.fileno() in ready:
            self._wake_r.recv(4096)
        if line.fileno() in ready:
            self._stream.receive()
        if push.fileno() in ready:
            for message in push.receive():
                if isinstance(message, list) and message[0] == b"message":
                    self._on_push(message[2])
