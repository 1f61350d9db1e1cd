"""The last of what an executor printed."""

from __future__ import annotations


class OutputTail:
    """The last `limit` bytes that an executor wrote to stdout and stderr."""

    def __init__(self, limit: int = 64 * 1024) -> None:
        self._limit = limit
        self._data = bytearray()

    def append(self, data: bytes) -> None:
        """Add what was read, dropping the oldest."""
        self._data += data
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    def clear(self) -> None:
        """Forget it all, as at the begin of a job."""
        self._data.clear()

    def text(self) -> str:
        """What is kept, as text: bytes that are no UTF-8 are shown as replacement characters."""
        return self._data[-self._limit :].decode("utf-8", "replace")
