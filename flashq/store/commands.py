"""What the typed functions for scripts are built on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.command import Value
    from flashq.store.keys import Keys
    from flashq.store.records import Term


class Commands:
    """Builds commands under one key prefix."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._root = keys.root


def flat(fields: Mapping[str, Value]) -> list[Value]:
    """Names and values, one after the other."""
    return [part for pair in fields.items() for part in pair]


def written(term: Term | None) -> str:
    """A term as scripts take it; empty: nobody's."""
    return "" if term is None else str(term)
