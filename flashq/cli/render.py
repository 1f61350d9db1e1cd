"""How rows are shown: a table on a terminal, tab-separated values when piped, JSON when asked for.

Names, descriptions and errors come from whoever can submit a job: what would steer a terminal is shown as its
escape (see `flashq.model.visible`). JSON needs no such care, since it is written in ASCII.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from flashq.model.visible import visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

ABSENT = "–"

# -- rows --------------------------------------------------------------------------------------------


def on_terminal() -> bool:
    """Whether people read our output as it comes."""
    return sys.stdout.isatty()


def show(
    rows: Sequence[Any],
    *,
    as_json: bool,
    columns: Sequence[str],
    none: str,
    now: datetime | None = None,
    people: Sequence[Any] | None = None,
) -> None:
    """Show rows: dataclasses of one kind.

    A pipe and JSON get every field, with times in ISO 8601, UTC. A terminal gets the fields in `columns` (of
    `people`, where rows for people differ), with times as ages at `now`. `none` is said where there are none.
    """
    if as_json:
        click.echo(as_json_text(rows))
        return
    if not rows:
        click.echo(none, err=True)
    elif on_terminal():
        from rich.console import Console

        Console().print(table(rows if people is None else people, columns, now))
    else:
        for line in plain_lines(rows):
            click.echo(line)


def as_json_text(rows: Iterable[Any]) -> str:
    """One JSON array of objects, in ASCII."""
    return json.dumps([asdict(row) for row in rows], default=_json, indent=2)


def as_json_line(row: Any) -> str:
    """One object on one line, in ASCII, for rows that come one by one."""
    return json.dumps(asdict(row), default=_json)


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return timestamp(value)
    raise TypeError(f"{type(value).__name__} has no place in a row")


def timestamp(at: datetime) -> str:
    """ISO 8601 with milliseconds, UTC: 2026-01-31T12:00:00.000Z."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain_lines(rows: Sequence[Any]) -> Iterable[str]:
    """A header and a line a row, tab-separated."""
    names = [f.name for f in fields(rows[0])]
    yield "\t".join(names)
    for row in rows:
        yield "\t".join(plain(getattr(row, name)) for name in names)


def plain(value: Any) -> str:
    """One value as text in one line; `–` for what is unknown."""
    if value is None:
        return ABSENT
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | dict):
        return visible(json.dumps(value, ensure_ascii=False)) if value else ABSENT
    return visible(str(value))


def table(rows: Sequence[Any], columns: Sequence[str], now: datetime | None) -> Table:
    """A table for people."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        numbers = all(type(getattr(row, name)) in (int, float, type(None)) for row in rows)
        made.add_column(_heading(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(
            *(Text(_for_people(name, getattr(row, name), now), style=_style(name, row)) for name in columns)
        )
    return made


def _heading(name: str) -> str:
    return name.removesuffix("_at").removesuffix("_s").replace("_", " ").upper()


def _for_people(name: str, value: Any, now: datetime | None) -> str:
    if isinstance(value, datetime) and now is not None:
        return f"{age(max(1.0, (now - value).total_seconds()))} ago"
    if name.endswith("_s") and value is not None:
        return age(value)
    return plain(value)


def age(seconds: float) -> str:
    """A duration in its largest sensible unit: 850 ms, 12 s, 3 min, 5 h, 2 d."""
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"


_COLOURS = {
    **dict.fromkeys(("COMPLETED", "idle", "ready", "ok"), "green"),
    **dict.fromkeys(("FAILED", "TIMED_OUT", "unhealthy", "silent", "fail"), "red"),
    **dict.fromkeys(("CANCELLED", "throttled", "outdated", "draining", "warn"), "yellow"),
    **dict.fromkeys(("IN_PROGRESS", "running"), "cyan"),
}


def _style(name: str, row: Any) -> str:
    return _COLOURS.get(str(getattr(row, name)), "") if name in ("status", "state") else ""


# -- one thing ---------------------------------------------------------------------------------------


def entries(values: Mapping[str, Any]) -> Iterable[str]:
    """A line for each entry, names aligned; texts of several lines are indented."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{part} {plain(v)}" for part, v in value.items() if v not in (None, {}))
        text = visible_lines(value) if isinstance(value, str) else plain(value)
        first, *rest = text.rstrip("\n").split("\n") if text else [ABSENT]
        yield f"{name:<{width}}  {first}"
        yield from (f"{'':<{width}}  {line}" for line in rest)
