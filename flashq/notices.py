"""What a caller is told, once and in one line: why its jobs have not begun, or that they run on the CPU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashq.client import Client
    from flashq.store.command import Command

log = logging.getLogger("flashq")


_DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # Linux, containers, WSL2


def machine_has_gpu_driver() -> bool:
    """Whether a GPU's driver is here; without one the private stack runs `gpu=` endpoints on the CPU."""
    return any(Path(place).exists() for place in _DRIVER)


def explain_wait(client: Client, endpoint: str, told: set[str]) -> None:
    """Ask for the endpoint's condition (why it has no worker) and log it as a warning, once."""

    def answered(observed: Any, error: Exception | None) -> None:
        if error is not None or endpoint in told:
            return
        condition = json.loads(observed.record.get("condition") or "{}")
        if condition.get("detail"):
            told.add(endpoint)
            log.warning("flashq: %s waits: %s", endpoint, condition["detail"])

    command: Command[Any] = client.transitions.observe(endpoint, oldest=0)
    client._transport.send(command, answered)  # noqa: SLF001 — a part of the client
