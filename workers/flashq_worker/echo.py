"""What a worker's jobs print, passed on to its own stderr: the log that its host keeps, or a terminal.

A job that prints without end does not fill the host's disk: beyond a rate its output is left out here. A disk that is
full costs the log, not the worker. On a terminal what would steer it is shown as its escape.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import time

from flashq.model.visible import visible_output

log = logging.getLogger("flashq.worker")
RATE = 4 * 2**20  # bytes a second
BURST = 16 * 2**20


class Echo:
    """Writes to `descriptor`."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if os.isatty(descriptor) else None
        self._room = float(BURST)
        self._at = time.monotonic()
        self._dropping = False

    def write(self, data: bytes) -> None:
        """Pass on what was printed, as far as the rate allows."""
        now = time.monotonic()
        self._room = min(BURST, self._room + (now - self._at) * RATE)
        self._at = now
        kept = data[: int(self._room)]
        self._room -= len(kept)
        if len(kept) < len(data) and not self._dropping:
            log.warning("a job prints more than %d MiB a second: the rest is left out here", RATE >> 20)
        self._dropping = len(kept) < len(data) or (self._dropping and self._room < BURST / 2)
        if self._decoder is not None:
            lines = self._decoder.decode(kept).split("\n")
            kept = "\n".join(map(visible_output, lines)).encode()
        with contextlib.suppress(
            OSError
        ):  # the disk is full, or nobody reads: the broker has a copy of the beginning
            os.write(self._descriptor, kept)
