"""Commands on their way over one connection: sent in batches, answered in order, sent again after a loss.

For loops of one thread that wait on sockets themselves: the client's multiplexer and the worker's supervisor.
Callbacks run inside `flush` and `receive`.

Where submits have to be confirmed by a replica, each batch that has some ends with a WAIT, and their answers are held
until that is answered. A connection that breaks in between has them sent again with the rest: only what a replica
of the same primary has confirmed counts.
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
from flashq.store.confirm import CONFIRMED, WAIT, confirmed, unconfirmed
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
_WAITS = 3  # so often is a replica waited for, before a submit is given up


class _Pending:
    __slots__ = ("answer", "callback", "command", "confirmed", "packed", "sent_at", "tries", "waits")

    def __init__(
        self, packed: bytes, command: Command[Any], callback: Callback, *, confirmed: bool = False
    ) -> None:
        self.packed = packed
        self.command = command
        self.callback = callback
        self.confirmed = confirmed
        self.answer: Any = None  # held until a replica has confirmed it
        self.tries = 0
        self.waits = 0
        self.sent_at = 0.0


class _Confirmation:
    """Stands in the flight for the answer to WAIT."""

    __slots__ = ("sent_at",)

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at


class CommandStream:
    """A queue of commands, of which some are under way on a `Line`.

    Every method may raise BrokerUnreachable: the line is then gone; `attach` another one and what had no answer
    is sent again (every command is idempotent under resend).
    """

    def __init__(self, scripts: Library, *, confirm: bool = False) -> None:
        """`confirm`: submits are answered once a replica has them."""
        self.line: Line | None = None
        self._library = scripts
        self._library_missing = False
        self._confirm = confirm
        self._queue: deque[_Pending] = deque()
        self._flight: deque[_Pending | _Confirmation] = deque()
        self._held: list[_Pending] = []  # answered, and to be confirmed

    @property
    def queued(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._queue)

    @property
    def queued_bytes(self) -> int:
        """How many bytes of requests wait to be sent."""
        return sum(len(item.packed) for item in tuple(self._queue))

    @property
    def busy(self) -> bool:
        """Whether something waits to be sent or answered."""
        return bool(self._queue or self._flight or self._held)

    def attach(self, line: Line) -> None:
        """Go on over this connection; what was under way on the last one leads."""
        if self._library_missing:
            self._library_missing = False
            try:
                load(line, self._library)
            except BrokerRefused as error:
                self.fail_all(error)
        self.line = line
        self._queue.extendleft(reversed(self._under_way()))

    def _under_way(self) -> list[_Pending]:
        """Take what was sent and is to be sent again, in its order."""
        flight = [item for item in self._flight if isinstance(item, _Pending)]
        sent = [*self._held, *flight]
        self._held = []
        self._flight.clear()
        return sent

    def drop(self) -> None:
        """Let go of the connection."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def add(self, command: Command[Any], callback: Callback) -> None:
        """Queue a command. The only method that may be called from another thread."""
        confirmed = self._confirm and command.script in CONFIRMED
        self._queue.append(
            _Pending(pack_script(command, self._library), command, callback, confirmed=confirmed)
        )

    def flush(self) -> None:
        """Send what is queued, taking in answers where too much is under way."""
        assert self.line is not None
        self.check()
        now = time.monotonic()
        while self._queue:
            batch: list[bytes] = []
            size, confirm = 0, False
            while self._queue and len(batch) < _BATCH and size < _BATCH_BYTES:
                item = self._queue.popleft()
                item.sent_at = now
                self._flight.append(item)
                batch.append(item.packed)
                size += len(item.packed)
                confirm = confirm or item.confirmed
            if confirm:
                self._flight.append(_Confirmation(now))
                batch.append(WAIT)
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
        pending = [*self._under_way(), *self._queue]
        self._queue.clear()
        for item in pending:
            _deliver(item, None, error)

    def _answer(self, reply: Any) -> None:
        item = self._flight.popleft()
        if isinstance(item, _Confirmation):
            self._on_confirmation(reply)
            return
        if isinstance(reply, hiredis.ReplyError):
            self._refused(item, refusal(reply))
            return
        try:
            answer = item.command.answer(reply)
        except BrokerError as error:
            _deliver(item, None, error)
            return
        if item.confirmed:
            item.answer = answer
            self._held.append(item)
        else:
            _deliver(item, answer, None)

    def _on_confirmation(self, reply: Any) -> None:
        held, self._held = self._held, []
        try:
            good = confirmed(reply)
        except BrokerError as error:
            for item in held:
                _deliver(item, None, error)
            return
        for item in held if good else reversed(held):
            item.waits += 1
            if good:
                _deliver(item, item.answer, None)
            elif item.waits < _WAITS:
                self._queue.appendleft(item)  # sent again, which changes nothing, and waited for again
            else:
                _deliver(item, None, unconfirmed(_WAITS))

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
