"""Which of several autoscalers acts: a lease in the broker, and the term under which the leader asks for things.

The lease says whose turn it is, so that one that died is replaced soon. What keeps the world safe is not this
clock but the term: the broker refuses whatever is asked under one that is over, and a host every command of it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from typing import TYPE_CHECKING

from flashq import __version__

if TYPE_CHECKING:
    from flashq.model.envelope import RootKeys
    from flashq.store.broker import Broker
    from flashq.store.command import Value
    from flashq.store.records import Led, Term

log = logging.getLogger("flashq.autoscaler")
LEASE_SHARE = 2 / 3
"""Of a worker's lease: how long a leader may be silent before another takes its place (10 s of 15 s)."""
_ASK_SHARE = 0.2  # of that: how often the leader renews it, and those that stand by look


class Leadership:
    """One autoscaler's part in it. Each call may raise BrokerError, and may then be made again."""

    def __init__(self, broker: Broker, keyring: RootKeys, *, lease_s: float, take_over: bool = False) -> None:
        """`lease_s`: that of workers. `take_over`: lead at once, in place of whoever does; the first time only."""
        host = socket.gethostname()
        self.id = f"{re.sub('[^A-Za-z0-9_.-]', '-', host)}-{os.getpid()}-{secrets.token_hex(4)}"
        self.term: Term | None = None
        """The term to act under, as of the last answer; None while another leads."""
        self.due_at = 0.0
        """When the broker is to be asked again (monotonic)."""
        self._broker = broker
        self._lease_ms = max(1, int(lease_s * LEASE_SHARE * 1000))
        self._take_over = take_over
        self._fields: dict[str, Value] = {"hostname": host, "pid": os.getpid(), "version": __version__}
        self._keyring = keyring
        self._seen: Term | None = None

    def keep(self) -> Term | None:
        """The term to act under; None while another leads. Asks the broker where its last word is old."""
        asked_at = time.monotonic()
        if asked_at < self.due_at:
            return self.term
        self.term = None  # until it is known again
        fields = {**self._fields, "keys": ",".join(self._keyring.ids)}
        led = self._broker.run(
            self._broker.transitions.lead(
                self.id, lease_ms=self._lease_ms, fields=fields, take_over=self._take_over
            )
        )
        self._take_over = False
        self._learn(led)
        wait_ms = self._lease_ms * _ASK_SHARE
        if self.term is None:
            wait_ms = min(wait_ms, max(1, led.until_ms - led.now_ms))
        self.due_at = asked_at + wait_ms / 1000
        return self.term

    def _learn(self, led: Led) -> None:
        if led.term.holder == self.id:
            self.term = led.term
        if led.term == self._seen:
            return
        self._seen = led.term
        if self.term is not None:
            log.info("leads, epoch %d", led.term.epoch)
        else:
            since_s = (led.now_ms - led.since_ms) / 1000
            log.info(
                "stands by: %s leads, epoch %d, since %.0f s ago", led.term.holder, led.term.epoch, since_s
            )

    def ask_anew(self) -> None:
        """Somebody said that another leads, or nobody: believe the broker alone, at once."""
        self.term = None
        self.due_at = 0.0

    def resign(self) -> None:
        """End in order: another may lead at once."""
        self.term = None
        self._broker.run(self._broker.transitions.resign(self.id))
