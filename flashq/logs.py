"""How flashq's processes log: one format on stderr.

What a record quotes may come from anybody who can write to the broker, so it neither steers the terminal that shows the
log nor looks like a record of its own: lines after a record's first are indented.
"""

from __future__ import annotations

import logging
import sys

from flashq.model.visible import visible_lines

_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record)).replace("\n", "\n    ")


def set_up() -> None:
    """Log to stderr from here on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
