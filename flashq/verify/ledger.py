"""The files in which a campaign's facts are kept: one a writer, each fact one write at its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flashq.verify.history import Fact, History, line, parse, parse_all

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".facts"


class Ledger:
    """Appends facts to a file. What was written stays, however the writer ends."""

    def __init__(self, folder: Path, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / f"{name}{_SUFFIX}", flags, 0o600)

    def write(self, fact: Fact) -> None:
        """Append one fact."""
        os.write(self._descriptor, line(fact))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def facts_in(folder: Path, name: str) -> list[Fact]:
    """The facts of one writer so far; none where it has not begun."""
    file = folder / f"{name}{_SUFFIX}"
    return parse_all(file.read_bytes())[0] if file.exists() else []


def history_of(folder: Path) -> History:
    """All that was written in a folder."""
    facts: list[Fact] = []
    torn = 0
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        found, cut = parse_all(file.read_bytes())
        facts += found
        torn += cut
    return History.of(facts, torn)


class Tail:
    """Reads what is new in the files of a folder whose names begin alike."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._read: dict[Path, int] = {}

    def new(self) -> list[Fact]:
        """The facts since the last call; a line that is still being written waits for the next."""
        facts: list[Fact] = []
        for file in self._folder.glob(f"{self._prefix}*{_SUFFIX}"):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                fresh = stream.read()
            whole = fresh.rfind(b"\n") + 1
            self._read[file] = self._read.get(file, 0) + whole
            facts += [fact for text in fresh[:whole].splitlines() if text and (fact := parse(text))]
        return facts
