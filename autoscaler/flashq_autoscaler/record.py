"""Decisions on record: what was seen and what was planned, a line of JSON each, so that any can be repeated.

Those that ask for nothing are left out. Two files of bounded size: when one is full it takes the place of the earlier.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from flashq.errors import FlashqError
from flashq_autoscaler.plan import Plan
from flashq_autoscaler.views import Params, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("flashq.autoscaler")
MOST_BYTES = 8 * 2**20
"""Of each of the two files."""
FILE = "decisions.jsonl"
_VERSION = 1


class RecordError(FlashqError):
    """A record of decisions that cannot be read: which line, and why."""


_SNAPSHOT, _PARAMS, _PLAN = TypeAdapter(Snapshot), TypeAdapter(Params), TypeAdapter(Plan)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One decision of the past. `plan`: as it was written (see `plan_json`)."""

    snapshot: Snapshot
    params: Params
    plan: Any


def plan_json(plan: Plan) -> Any:
    """A plan as JSON has it, to be compared."""
    return json.loads(_PLAN.dump_json(plan))


class Recorder:
    """Writes decisions into a folder. What cannot be written is said once, and hinders nobody."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file, self._most_bytes = folder / FILE, most_bytes
        self._failed = False

    def write(self, snapshot: Snapshot, params: Params, plan: Plan) -> None:
        """Add one."""
        try:
            parts = _SNAPSHOT.dump_json(snapshot), _PARAMS.dump_json(params), _PLAN.dump_json(plan)
            self._append(b'{"v":%d,"snapshot":%b,"params":%b,"plan":%b}\n' % (_VERSION, *parts))
        except (OSError, ValueError) as error:  # a disk, or text from a record that is none
            if not self._failed:
                log.warning("decisions are not recorded: %s: %s", self._file, error)
            self._failed = True
        else:
            self._failed = False

    def _append(self, line: bytes) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line)
            full = file.tell() > self._most_bytes
        if full:
            self._file.replace(self._file.with_suffix(".old.jsonl"))


def read(file: Path) -> Iterator[Recorded]:
    """The decisions in a file, in their order. Raises RecordError."""
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _read(line, f"{file}, line {number}")
    except OSError as error:
        raise RecordError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{file} is no text in UTF-8") from None


def _read(line: str, where: str) -> Recorded:
    try:
        told = json.loads(line)
        if told["v"] != _VERSION:
            raise RecordError(f"{where}: of version {told['v']!r}, this flashq reads {_VERSION}")
        return Recorded(
            _SNAPSHOT.validate_python(told["snapshot"]), _PARAMS.validate_python(told["params"]), told["plan"]
        )
    except (ValueError, KeyError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise RecordError(f"{where} is no decision: {first}") from None
