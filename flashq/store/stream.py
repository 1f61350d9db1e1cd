"""Commands on their way over one connection: sent in batches, answered in order, sent again after a loss.

For loops of one thread that wait on sockets themselves: the client's multiplexer and the worker's supervisor.
Callbacks run inside `flush` and `receive`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis

from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable
from flashq.store.broker import load
from flashq.store.line import REPLY_TIMEOUT_S, LibraryMissing, pack_script, refusal

if TYPE_CHECKING:
    from flashq.store.command import Command
    from flashq.store.line import Line
    from flashq.store.scripts import Library

Callback = Callable[[Any, Exception | None], None]
log = logging.getLogger("flashq")
_BATCH = 256
_BATCH_BYTES = 1 << 20
_TRIES = 20


class _Pending:
    __slots__ = ("callback", "command", "packed", "sent_at", "tries")

    def __init__(self, packed: bytes, command: Command[Any], callback: Callback) -> None:
        self.packed = packed
        self.command = command
        self.callback = callback
        self.tries = 0
        self.sent_at = 0.0


class CommandStream:
    """A queue of commands, of which some are under way on a `Line`.

    Every method may raise BrokerUnreachable: the line is then gone; `attach` another one and what had no answer
    is sent again (every command is idempotent under resend).
    """

    def __init__(self, scripts: Library) -> None:
        self.line: Line | None = None
        self._library = scripts
        self._library_missing = False
        self._queue: deque[_Pending] = deque()
        self._flight: deque[_Pending] = deque()

    @property
    def queued(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._queue)

    @property
    def busy(self) -> bool:
        """Whether something waits to be sent or answered."""
        return bool(self._queue or self._flight)

    def attach(self, line: Line) -> None:
        """Go on over this connection; what was under way on the last one leads."""
        if self._library_missing:
            self._library_missing = False
            try:
                load(line, self._library)
            except BrokerRefused as error:
                self.fail_all(error)
        self.line = line
        self._queue.extendleft(reversed(self._flight))
        self._flight.clear()

    def drop(self) -> None:
        """Let go of the connection."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def add(self, command: Command[Any], callback: Callback) -> None:
        """Queue a command. The only method that may be called from another thread."""
        self._queue.append(_Pending(pack_script(command, self._library), command, callback))

    def flush(self) -> None:
        """Send what is queued, taking in answers where too much is under way."""
        assert self.line is not None
        self.check()
        now = time.monotonic()
        while self._queue:
            batch: list[bytes] = []
            size = 0
            while self._queue and len(batch) < _BATCH and size < _BATCH_BYTES:
                item = self._queue.popleft()
                item.sent_at = now
                self._flight.append(item)
                batch.append(item.packed)
                size += len(item.packed)
            self.line.send(batch[0] if len(batch) == 1 else b"".join(batch))
            if len(self._flight) > 2 * _BATCH:  # never so far ahead that both sides block on full buffers
                while len(self._flight) > _BATCH:
                    self._answer(self.line.read())

    def check(self) -> None:
        """Raise BrokerUnreachable where the oldest command has waited too long for its answer."""
        if self._flight and time.monotonic() > self._flight[0].sent_at + REPLY_TIMEOUT_S:
            raise BrokerUnreachable(f"the broker has not answered for {REPLY_TIMEOUT_S:g} s")

    def receive(self) -> None:
        """Take in every answer that is there."""
        assert self.line is not None
        for reply in self.line.receive():
            self._answer(reply)

    def fail_all(self, error: Exception) -> None:
        """Answer everything with an error."""
        pending = [*self._flight, *self._queue]
        self._flight.clear()
        self._queue.clear()
        for item in pending:
            _deliver(item, None, error)

    def _answer(self, reply: Any) -> None:
        item = self._flight.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self._refused(item, refusal(reply))
            return
        try:
            answer = item.command.parse(reply)
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            unreadable = BrokerError(f"{item.command.script} answered what cannot be read: {error!r}")
            _deliver(item, None, unreadable)
            return
        _deliver(item, answer, None)

    def _refused(self, item: _Pending, error: Exception) -> None:
        if isinstance(error, LibraryMissing | BrokerUnreachable) and item.tries < _TRIES:
            item.tries += 1
            self._flight.appendleft(item)  # it keeps its place
            self._library_missing = isinstance(error, LibraryMissing)
            raise BrokerUnreachable(f"connecting anew: {error}")  # which loads the library, or waits its turn
        _deliver(item, None, error)


def _deliver(item: _Pending, answer: Any, error: Exception | None) -> None:
    """Call back; a callback that raises harms nobody but its own command."""
    try:
        item.callback(answer, error)
    except BrokerUnreachable:
        raise
    except Exception:
        log.exception("what follows from the answer of %s failed", item.command.script)
