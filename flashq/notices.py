"""What a caller is told, once and in one line: why its jobs have not begun, or that they run on the CPU."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.store.queries_fleet import wait_reason

if TYPE_CHECKING:
    from flashq.client import Client
    from flashq.store.command import Command

log = logging.getLogger("flashq")


class Told:
    """What the user of this program has been warned of."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __contains__(self, what: str) -> bool:
        return what in self._told

    def once(self, what: str, text: str) -> None:
        """Warn of something, unless that was done before."""
        if what not in self._told:
            self._told.add(what)
            log.warning("flashq: %s", text)


_OURS = str(Path(__file__).parent) + os.sep


def level_of_caller() -> int:
    """The `stacklevel` by which a warning, raised where this is called, names the user's line."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level if frame is not None else 1


_DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # Linux, containers, WSL2


def machine_has_gpu_driver() -> bool:
    """Whether a GPU's driver is here; without one the private stack runs `gpu=` endpoints on the CPU."""
    return any(Path(place).exists() for place in _DRIVER)


def explain_wait(client: Client, endpoint: str) -> None:
    """Ask for the endpoint's condition (why it has no worker) and warn of it, once."""
    what = f"waits:{endpoint}"
    if what in client.told:
        return

    def answered(observed: Any, error: Exception | None) -> None:
        if error is not None:
            return
        if reason := wait_reason(observed.record):
            client.told.once(what, f"{endpoint} waits: {reason}")

    command: Command[Any] = client.transitions.observe(endpoint, oldest=0)
    client.send(command, answered)
