"""An independent reader: asks the broker itself, past the door, how each acknowledged job stands, and keeps asking.

What has ended is asked for again and again, so that an ending which changes is found out; values are verified and
unpickled as a caller would.
"""

from __future__ import annotations

import threading
import time
from itertools import islice
from typing import TYPE_CHECKING

from flashq import codec
from flashq.ending import verified_value
from flashq.errors import BrokerError
from flashq.model.lifecycle import TERMINAL
from flashq.model.outcome import Ending
from flashq.verify.history import Acknowledged, Left, Read
from flashq.verify.ledger import Tail
from flashq.verify.visit import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from flashq.model.keyring import Keyring
    from flashq.store.broker import Broker
    from flashq.store.records import Watched
    from flashq.verify.ledger import Ledger

_EVERY_S = 0.25
_AGAIN = 40
_AT_ONCE = 100


class Reader:
    """Reads from a thread of its own until `close`. `callers`: how the names of their ledgers begin."""

    def __init__(self, broker: Broker, keyring: Keyring, folder: Path, callers: str, ledger: Ledger) -> None:
        self._broker, self._keyring, self._ledger = broker, keyring, ledger
        self._tail = Tail(folder, callers)
        self._open: dict[str, str] = {}
        """Jobs not known to have ended, and the state they were last seen in."""
        self._ended: dict[str, None] = {}
        self._again = 0
        self.numbers: set[int] = set()
        """The calls that were acknowledged."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return len(self._ended)

    @property
    def unended(self) -> int:
        """How many acknowledged jobs have not ended, as far as is known. Those that are gone never will."""
        return sum(bool(state) for state in list(self._open.values()))

    def close(self) -> None:
        """Read no more."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            try:
                self.look()
            except BrokerError:
                continue  # it is away: that is what campaigns are about

    def look(self, *, all_of_them: bool = False) -> None:
        """Ask once: for what has not ended, and for some that have (or all). Raises BrokerError."""
        with self._lock:
            for fact in self._tail.new():
                if isinstance(fact, Acknowledged):
                    self.numbers.add(fact.number)
                    if fact.job not in self._open and fact.job not in self._ended:
                        self._open[fact.job] = "acknowledged"
            self._ask(list(self._open), known=False)
            self._ask(list(self._ended) if all_of_them else self._some(), known=True)

    def _some(self) -> Sequence[str]:
        """Those that ended, in turns."""
        if self._again >= len(self._ended):
            self._again = 0
        some = list(islice(self._ended, self._again, self._again + _AGAIN))
        self._again += _AGAIN
        return some

    def _ask(self, jobs: Iterable[str], *, known: bool) -> None:
        asking = iter(list(jobs))
        while chunk := list(islice(asking, _AT_ONCE)):
            asked = time.monotonic()
            rows = self._broker.run(self._broker.transitions.watch(chunk))
            for job, row in zip(chunk, rows, strict=True):
                self._note(job, row, asked, known=known)

    def _note(self, job: str, row: Watched, asked: float, *, known: bool) -> None:
        told = time.monotonic()
        state = "" if row.state is None else row.state.value
        if row.state not in TERMINAL:
            if known or self._open[job] != state:
                self._ledger.write(Read(job, "reader", state, "", "", asked, told))
            if not known:
                self._open[job] = state
            return
        value, problem = self._value(job, row)
        self._ledger.write(Read(job, "reader", state, value, problem, asked, told, row.fence))
        if not known:
            del self._open[job]
            self._ended[job] = None

    def _value(self, job: str, row: Watched) -> tuple[str, str]:
        """The token of the attempt that ended it, and the type of its error."""
        assert row.state is not None
        ending = Ending(row.state, row.fence, row.reason, row.text, row.outcome)
        try:
            opened = verified_value(ending, self._keyring, endpoint=NAME, job=job, call_digest="")
            return str(codec.load_value(opened)), ""
        except Exception as error:  # noqa: BLE001 — the function's own, or why there is no value: both are recorded
            own = type(error) in (ValueError, ConnectionError)
            return str(error) if own else "", type(error).__name__

    def left(self) -> Left:
        """What the broker still counts of the campaign. Raises BrokerError."""
        seen = self._broker.run(self._broker.transitions.observe(NAME))
        return Left(seen.queued, seen.scheduled, len(seen.began_ms))
