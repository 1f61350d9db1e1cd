"""Traces of arrivals: read from CSV, checked line by line."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flashq.errors import FlashqError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_PLAIN = ("arrival", "service")
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOST = 1e9  # seconds, and tokens


class TraceError(FlashqError):
    """A trace that cannot be simulated: which line, and why."""


@dataclass(frozen=True, slots=True)
class Trace:
    """When jobs come (seconds since the first, ascending), and how long each runs (seconds)."""

    arrivals: tuple[float, ...]
    services: tuple[float, ...]

    @property
    def work_s(self) -> float:
        """All that is to be done."""
        return math.fsum(self.services)

    def __len__(self) -> int:
        return len(self.arrivals)


def read(path: Path) -> Trace:
    """A CSV file with the columns arrival and service, in seconds; or those of the Azure LLM inference traces.

    For the latter a request of c context and g generated tokens runs for 0.05 + 2e-4 c + 0.02 g seconds.

    Raises TraceError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parse(file)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} is no CSV file in UTF-8: {error}") from None
    except TraceError as error:
        raise TraceError(f"{path}, {error}") from None


def parse(lines: Iterable[str]) -> Trace:
    """The lines of such a file. Raises TraceError."""
    rows = csv.DictReader(lines)
    names = tuple(rows.fieldnames or ())
    row: Callable[[dict[str, str]], tuple[float, float]]
    if set(_PLAIN) <= set(names):
        row = _plain
    elif set(_AZURE) <= set(names):
        row = _azure
    else:
        known = f"{', '.join(_PLAIN)} or {', '.join(_AZURE)}"
        raise TraceError(f"line 1: its columns are {', '.join(names) or 'none'}; give it {known}")
    found: list[tuple[float, float]] = []
    for number, values in enumerate(rows, start=2):
        try:
            found.append(row(values))
        except (ValueError, TypeError) as error:
            raise TraceError(f"line {number}: {error}") from None
        if len(found) > 1 and found[-1][0] < found[-2][0]:
            raise TraceError(f"line {number}: it comes before the line above it; sort the file by time")
    if not found:
        raise TraceError("line 2: it has no jobs")
    first = found[0][0]
    return Trace(tuple(at - first for at, _ in found), tuple(service for _, service in found))


def _plain(row: dict[str, str]) -> tuple[float, float]:
    arrival, service = (_number(row, name) for name in _PLAIN)
    return arrival, service


def _azure(row: dict[str, str]) -> tuple[float, float]:
    at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26])
    context, generated = _number(row, "ContextTokens"), _number(row, "GeneratedTokens")
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp(), 0.05 + 2e-4 * context + 0.02 * generated


def _number(row: dict[str, str], name: str) -> float:
    value = float(row[name])
    if not 0 <= value <= _MOST:
        raise ValueError(f"{name} is {row[name]}, not a number from 0 to {_MOST:g}")
    return value
