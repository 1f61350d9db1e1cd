"""`flashq top`: endpoints, workers and hosts as they are now, again and again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import Exit, connected, exit_codes
from flashq.cli.render import age, as_json_text, on_terminal, plain_lines, table
from flashq.errors import BrokerError
from flashq.store.queries_now import Now, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from flashq.store.broker import Broker

_MOST_ROWS = 20
"""Of each table: the busiest."""


@click.command(
    epilog=example("flashq top", "flashq top --once", "flashq top --json | jq .hosts") + exit_codes()
)
@click.option(
    "--every",
    type=click.FloatRange(0.2, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once; so it is where this is piped, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def top(every: float, once: bool, as_json: bool) -> int:
    """Show what waits, what runs and where, until Ctrl-C. The busiest are first, 20 of each."""
    with connected() as broker:
        if as_json:
            click.echo(_json(look(broker)))
        elif once or not on_terminal():
            _plain(look(broker))
        else:
            _live(broker, every)
    return Exit.OK


def _json(now: Now) -> str:
    parts: dict[str, Any] = {
        name: json.loads(as_json_text(getattr(now, name))) for name in ("endpoints", "workers", "hosts")
    }
    return json.dumps(
        {"at": now.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **parts}, indent=2
    )


def _plain(now: Now) -> None:
    parts: list[Sequence[Any]] = [now.endpoints, now.workers, now.hosts]
    for at, rows in enumerate(rows for rows in parts if rows):
        if at:
            click.echo()
        for line in plain_lines(rows):
            click.echo(line)
    if not any(parts):
        click.echo("nothing yet: no endpoint, no worker, no host", err=True)


def _live(broker: Broker, every: float) -> None:
    from rich.live import Live

    now = look(broker)
    with Live(_screen(now, ""), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            try:
                now, trouble = look(broker), ""
            except BrokerError as error:  # it may come back
                trouble = str(error)
            live.update(_screen(now, trouble), refresh=True)


def _screen(now: Now, trouble: str) -> Group:
    from rich.console import Group
    from rich.text import Text

    ages = (datetime.now(UTC) - now.at).total_seconds()
    head = f"flashq top  {now.at:%H:%M:%S} UTC" + (f"  (as of {age(ages)} ago: {trouble})" if trouble else "")
    parts: list[Any] = [Text(head, style="red" if trouble else "bold")]
    for rows in (now.endpoints, now.workers, now.hosts):
        if rows:
            columns = [name for name in asdict(rows[0]) if _is_shown(name, rows)]
            parts += [Text(""), table(rows[:_MOST_ROWS], columns, now.at)]
            if len(rows) > _MOST_ROWS:
                parts.append(Text(f"… and {len(rows) - _MOST_ROWS} more", style="dim"))
    if len(parts) == 1:
        parts.append(Text("nothing yet: no endpoint, no worker, no host"))
    return Group(*parts)


def _is_shown(name: str, rows: Sequence[Any]) -> bool:
    """States that nobody is in, and reasons that there are none of, take no column."""
    if name == "gpu_memory" or (name == "endpoint" and hasattr(rows[0], "worker")):
        return False  # too much for a row; and a worker's name says its endpoint
    rare = name in (
        "initializing",
        "throttled",
        "outdated",
        "unhealthy",
        "reason",
        "failed",
        "gpus",
        "gpus_held",
    )
    return not rare or any(getattr(row, name) for row in rows)
