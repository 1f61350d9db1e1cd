"""Which modules executors import, noted in a file of their environment, for its zygote to import ahead.

Noted are modules of the environment's packages and of the standard library alone: never the user's own, which are
shipped with a revision or lie beside a program.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import sysconfig
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST = 5000
"""Modules noted, at most."""
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_PLACES = tuple(
    {sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_OURS = ("flashq", "flashq_worker", "cloudpickle", "__main__", "__mp_main__")


def noted(file: Path) -> list[str]:
    """The names in a file, in the order in which they were imported; none where it cannot be read."""
    try:
        names = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)][:MOST]


def note(file: Path, before: Iterable[str]) -> None:
    """Add what has been imported and was not `before` to a file. Where that cannot be done, nothing is noted."""
    known = noted(file)
    fresh = [name for name in imported(before) if name not in set(known)]
    if not fresh:
        return
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        aside.write_text(json.dumps([*known, *fresh][:MOST]), "utf-8")
        aside.replace(file)


def imported(before: Iterable[str]) -> list[str]:
    """The modules that may be noted, without those `before`, in the order in which they were imported."""
    seen = frozenset(before)
    found = []
    for name, module in list(sys.modules.items()):
        if name in seen or name.partition(".")[0] in _OURS:
            continue
        origin = getattr(module, "__file__", None)
        if isinstance(origin, str) and origin.startswith(_PLACES) and _NAME.fullmatch(name):
            found.append(name)
    return found
