"""What a record says of itself: when, with what and where it was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import flashq


def about(command: str) -> dict[str, str | float]:
    """The head of a record."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flashq": flashq.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average": os.getloadavg()[0],
    }
