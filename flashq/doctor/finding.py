"""What one check found. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(StrEnum):
    """From good to bad; `unknown`: it could not be found out; `skipped`: it does not apply here."""

    OK = "ok"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `flashq doctor`."""

    check: str
    state: State
    found: str
    advice: str = ""
    """What to do; '' where there is nothing to be done."""


def ok(check: str, found: str) -> Finding:
    return Finding(check, State.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.FAIL, found, advice)


def unknown(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, State.UNKNOWN, found, advice)


def skipped(check: str, found: str) -> Finding:
    return Finding(check, State.SKIPPED, found)


def some(names: Sequence[str], most: int = 4) -> str:
    """Some of them by name, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
