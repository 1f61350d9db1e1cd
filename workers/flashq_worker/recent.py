"""The most recent of many names, to know them again. Pure."""

from __future__ import annotations


class Recent:
    """Remembers the last `limit` names appended."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: dict[str, None] = {}

    def append(self, name: str) -> None:
        """Remember a name, forgetting the oldest where there are too many."""
        self._names[name] = None
        if len(self._names) > self._limit:
            del self._names[next(iter(self._names))]

    def __contains__(self, name: str) -> bool:
        return name in self._names
