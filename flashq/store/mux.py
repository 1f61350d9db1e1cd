"""The client's side of the broker: one thread carries every call of a process, and takes in what is pushed.

Commands come from any thread and leave in batches; replies come back in order on the same connection, outcomes
on a second one (pub/sub). After a lost connection everything without an answer is sent again. Callbacks run in
the I/O thread and must be short. Knows nothing of jobs: see `flashq.client`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from flashq.errors import BrokerError, BrokerUnreachable, FlashqError
from flashq.store.broker import ensure_library
from flashq.store.command import Command
from flashq.store.line import Line, LibraryMissing, pack, pack_script, refusal
from flashq.store.scripts import library

Callback = Callable[[Any, Exception | None], None]
_BATCH = 256
_BATCH_BYTES = 1 << 20


class _Pending:
    __slots__ = ("callback", "command", "packed", "tries")

    def __init__(self, packed: bytes, command: Command[Any], callback: Callback) -> None:
        self.packed = packed
        self.command = command
        self.callback = callback
        self.tries = 0


class Multiplexer:
    """Carries commands to the broker from a thread of its own, started with the first one.

    `address()` gives the broker's URL and may take its time (it may start a broker); it is asked again after a
    lost connection. `on_push` gets each message on `channel`; `on_connect` is told of every connection made,
    `on_tick` runs about every `tick_s`. `patience_s`: for how long a lost broker is waited for.
    """

    def __init__(
        self,
        address: Callable[[], str],
        *,
        channel: str,
        on_push: Callable[[bytes], None],
        on_connect: Callable[[], None],
        on_tick: Callable[[], None],
        tick_s: float = 5.0,
        patience_s: float = 30.0,
    ) -> None:
        self._address = address
        self._channel = channel
        self._on_push, self._on_connect, self._on_tick = on_push, on_connect, on_tick
        self._tick_s, self._patience_s = tick_s, patience_s
        self._library = library()
        self._queue: deque[_Pending] = deque()
        self._flight: deque[_Pending] = deque()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._asleep = False
        self._closing = False
        self._line: Line | None = None
        self._push: Line | None = None
        self._connected_once = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def in_io_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def send(self, command: Command[Any], callback: Callback) -> None:
        """Carry out a command; `callback(answer, None)` or `callback(None, error)` runs in the I/O thread."""
        self._queue.append(_Pending(pack_script(command, self._library), command, callback))
        if self._thread is None:
            self._start()
        if self._asleep:
            self._wake()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is queued, take in its answers, and end; from any thread but the I/O thread."""
        thread = self._thread
        self._closing = True
        if thread is not None and thread.is_alive():
            self._wake()
            thread.join(timeout_s)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flashq-io", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the buffer is full: a wake is on its way already
            self._wake_w.send(b"\0")

    # -- in the I/O thread ---------------------------------------------------------------------------
    def _run(self) -> None:
        next_tick = time.monotonic() + self._tick_s
        while True:
            try:
                self._connect()
                self._flush()
                self._asleep = True
                idle = not self._queue
                if self._closing and idle and not self._flight:
                    break
                self._wait(max(0.0, next_tick - time.monotonic()) if idle else 0.0)
                if time.monotonic() >= next_tick:
                    self._on_tick()
                    next_tick = time.monotonic() + self._tick_s
            except BrokerUnreachable as error:
                self._drop()
                if self._closing:
                    self._fail_all(error)
                    break
        self._drop()

    def _drop(self) -> None:
        for line in (self._line, self._push):
            if line is not None:
                line.close()
        self._line = self._push = None

    def _connect(self) -> None:
        if self._line is not None:
            return
        deadline = time.monotonic() + (self._patience_s if self._connected_once else 3.0)
        pause = 0.02
        while True:
            try:
                url = self._address()
                line, push = Line(url), Line(url)
                push.call(pack("SUBSCRIBE", self._channel))
                ensure_library(line, self._library)
                break
            except BrokerUnreachable as error:
                if self._closing or time.monotonic() + pause > deadline:
                    self._fail_all(error)
                    self._await_work()
                    deadline = time.monotonic() + 3.0
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
            except FlashqError as error:
                self._fail_all(error)
                self._await_work()
        self._line, self._push = line, push
        again = list(self._flight)
        self._flight.clear()
        self._queue.extendleft(reversed(again))
        self._on_connect()
        self._connected_once = True

    def _await_work(self) -> None:
        """Sleep until somebody sends something: after a failure there is nothing to do for nobody."""
        while not self._queue:
            if self._closing:
                raise BrokerUnreachable("closed")
            self._asleep = True
            if self._queue:
                break
            ready, _, _ = select.select([self._wake_r], [], [], self._tick_s)
            if ready:
                self._wake_r.recv(4096)

    def _fail_all(self, error: Exception) -> None:
        pending = [*self._flight, *self._queue]
        self._flight.clear()
        self._queue.clear()
        for item in pending:
            item.callback(None, error)

    def _flush(self) -> None:
        self._asleep = False
        assert self._line is not None
        while self._queue:
            batch: list[bytes] = []
            size = 0
            while self._queue and len(batch) < _BATCH and size < _BATCH_BYTES:
                item = self._queue.popleft()
                self._flight.append(item)
                batch.append(item.packed)
                size += len(item.packed)
            self._line.send(b"".join(batch))
            if len(self._flight) > 2 * _BATCH:  # never so far ahead that both sides block on full buffers
                while len(self._flight) > _BATCH:
                    self._answer(self._line.read())

    def _wait(self, timeout_s: float) -> None:
        assert self._line is not None
        assert self._push is not None
        if self._queue:
            timeout_s = 0.0
        ready, _, _ = select.select([self._wake_r, self._line, self._push], [], [], timeout_s)
        self._asleep = False
        if self._wake_r in ready:
            self._wake_r.recv(4096)
        if self._line in ready:
            for reply in self._line.receive():
                self._answer(reply)
        if self._push in ready:
            for message in self._push.receive():
                if isinstance(message, list) and message[0] == b"message":
                    self._on_push(message[2])

    def _answer(self, reply: Any) -> None:
        item = self._flight.popleft()
        if isinstance(reply, hiredis.ReplyError):
            error = refusal(reply)
            if isinstance(error, LibraryMissing | BrokerUnreachable) and item.tries < 20:
                item.tries += 1
                self._queue.append(item)
                if isinstance(error, LibraryMissing):
                    raise BrokerUnreachable("the function library is gone; connecting anew")
                time.sleep(0.05)
                return
            item.callback(None, error)
            return
        try:
            answer = item.command.parse(reply)
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            item.callback(None, BrokerError(f"{item.command.script} answered what cannot be read: {error!r}"))
            return
        item.callback(answer, None)

