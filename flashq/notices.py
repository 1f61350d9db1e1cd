"""What a waiting caller is told: once per endpoint, in one line, why its jobs have not begun."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashq.client import Client
    from flashq.store.command import Command

log = logging.getLogger("flashq")


def explain_wait(client: Client, endpoint: str, told: set[str]) -> None:
    """Ask for the endpoint's condition (why it has no worker) and log it as a warning, once."""

    def answered(observed: Any, error: Exception | None) -> None:
        if error is not None or endpoint in told:
            return
        condition = json.loads(observed.record.get("condition") or "{}")
        if condition.get("detail"):
            told.add(endpoint)
            log.warning("%s waits: %s", endpoint, condition["detail"])

    command: Command[Any] = client.transitions.observe(endpoint, oldest=0)
    client._transport.send(command, answered)  # noqa: SLF001 — a part of the client
