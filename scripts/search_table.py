"""The table of what the model search covers: its scopes, and what they came to (`python -m tests.search`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scripts.results_table import RESULTS
from tests.search.scopes import LARGE, SCOPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = RESULTS / "search.json"
_HEADINGS = (
    "scope",
    "what is searched",
    "jobs",
    "states",
    "transitions",
    "depth",
    "s",
    "searched by",
)


def scopes_table(file: Path = FILE) -> str:
    """A line for each scope. Raises KeyError for one that was never searched to its end."""
    results = json.loads(file.read_text("utf-8"))
    lines = [_HEADINGS, ("---", "---", *["---:"] * 5, "---", "---")]
    for scope in (*SCOPES, *LARGE):
        found = results[scope.name]
        numbers = (found["states"], found["transitions"], found["depth"], round(found["took_s"]))
        lines.append(
            (
                scope.name,
                scope.about,
                str(len(scope.cast.jobs)),
                *(f"{number:,}" for number in numbers),
                "`make test`" if scope.every_time else "`make verify`",
            )
        )
    heads = [results[scope.name]["about"] for scope in (*SCOPES, *LARGE)]
    ran = {f"{head['date'][:10]}, the scripts {head['scripts']}, {head['machine']}" for head in heads}
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{rows}\n\n`python -m tests.search --output …`: {'; '.join(sorted(ran))}, beside other work\n"


TABLES: dict[str, Callable[[], str]] = {"searched": scopes_table}
