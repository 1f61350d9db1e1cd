"""Waits for the system to resolve a name, and no longer than is asked.

The system's resolver may take a minute over a name that is gone, and nothing interrupts it: not a timeout for the
connection, not a signal. So it is asked in a thread, and whoever waits gives up in time. While such a question is
open nobody asks the same again: they are told at once.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _system(name: str) -> None:
    socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)


class Names:
    """`resolve` raises OSError for a name that there is not; it may take as long as it likes."""

    def __init__(self, resolve: Callable[[str], None] = _system) -> None:
        self._resolve = resolve
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # no thread comes along, and the lock may be held

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Question] = {}

    def wait_for(self, name: str, timeout_s: float) -> None:
        """Return once `name` resolves; an IP address does. Raises OSError: it does not, or not in time."""
        if _is_address(name):
            return
        with self._lock:
            question = self._open.get(name)
            if question is None:
                question = self._open[name] = _Question()
                threading.Thread(
                    target=self._ask, args=(name, question), name="resolver", daemon=True
                ).start()
        if not question.answered.wait(max(0.0, question.asked_at + timeout_s - time.monotonic())):
            asked_s = time.monotonic() - question.asked_at
            raise TimeoutError(f"{name} is not resolved after {asked_s:.1f} s")
        if question.error is not None:
            raise OSError(*question.error.args)

    def _ask(self, name: str, question: _Question) -> None:
        try:
            self._resolve(name)
        except OSError as error:
            question.error = error
        except UnicodeError as error:  # no name at all
            question.error = OSError(str(error))
        with self._lock:
            self._open.pop(name, None)
        question.answered.set()


class _Question:
    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.answered = threading.Event()
        self.error: OSError | None = None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


NAMES = Names()
