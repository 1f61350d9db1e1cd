"""The lines that tracebacks show of functions that came without their file.

What was sent with the function is shown even where a file of that name is here: it may be another one, or newer.
"""

from __future__ import annotations

import linecache
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_LINES = 1_000_000
"""Of one file: what is farther below is not shown."""


def show(texts: Iterable[tuple[str, int, str]]) -> None:
    """Have tracebacks show these: of a file, from a line on, some lines."""
    for file, number, text in texts:
        lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
        if number + len(lines) > _MOST_LINES:
            continue
        known = list(linecache.getlines(file))  # of a file that is here, what was not sent
        known.extend(repeat("\n", number - 1 - len(known)))
        known[number - 1 : number - 1 + len(lines)] = lines
        # Without a time of change linecache never looks for the file.
        linecache.cache[file] = (sum(map(len, known)), None, known, file)
