"""Endpoints: which there are, how one stands, and back to how it was before its last update."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import click

from flashq.apps.deploy import keep_artifact_of
from flashq.cli import example
from flashq.cli.connection import Exit, Stop, connected, exit_codes, keyring, load_settings
from flashq.cli.render import as_json_line, as_json_text, entries, plain, show
from flashq.model.visible import visible
from flashq.store import queries_events
from flashq.store import queries_fleet as fleet
from flashq.store.queries import moment

if TYPE_CHECKING:
    from datetime import datetime

    from flashq.store.broker import Broker

_POLL_S = 0.5
_WHY_NOT = {
    "none": "{name} has not been updated since it was first registered",
    "gone": "the code that {name} had before is kept no longer (it is for a week)",
    "moved": "{name} was updated just now by somebody else: look again",
    "unknown": "no endpoint {name} is registered: see `flashq endpoints`",
}


@click.command(
    epilog=example(
        "flashq endpoints",
        "flashq endpoints --json",
        "flashq endpoints embed",
        "flashq endpoints embed --events --follow",
        "flashq endpoints embed --rollback",
    )
    + exit_codes(Exit.NOT_FOUND, Exit.REFUSED)
)
@click.argument("endpoint", required=False)
@click.option(
    "--rollback",
    "back",
    is_flag=True,
    help="Go back to the code, dependencies and resources of before its last update; again: forward.",
)
@click.option(
    "--events",
    "of_events",
    is_flag=True,
    help="What happened to it, and what was decided, with why.",
)
@click.option("--follow", "-f", is_flag=True, help="With --events: go on, as they come.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="With --events."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
def endpoints(
    endpoint: str | None, back: bool, of_events: bool, follow: bool, limit: int, as_json: bool
) -> None:
    """List endpoints, with a count of their workers in each state; or show one ENDPOINT.

    After a rollback workers are replaced as after an update, a few at a time. Calls of a program that is running still
    run the code that it has; its next start makes that current again.
    """
    if endpoint is None and (back or of_events):
        raise click.UsageError("--rollback and --events need the name of an endpoint")
    if follow and not of_events:
        raise click.UsageError("--follow goes with --events")
    with connected() as broker:
        if endpoint is not None and back:
            _roll_back(broker, endpoint)
            return
        if endpoint is not None and of_events:
            _show_events(broker, endpoint, limit, follow=follow, as_json=as_json)
            return
        rows = fleet.endpoints(broker)
        now = moment(fleet.now_ms(broker))
    if endpoint is not None:
        _one(rows, endpoint, as_json)
        return
    columns = ["name", "revision", "workers", *fleet.WORKER_STATES]
    if any(row.reason for row in rows):
        columns += ["reason", "since"]
    none = "no endpoints: none has been called or deployed yet"
    show(rows, as_json=as_json, columns=columns, now=now, none=none, people=[_short(row) for row in rows])


def _one(rows: list[fleet.ListedEndpoint], name: str, as_json: bool) -> None:
    found = [row for row in rows if row.name == name]
    if not found:
        raise Stop(_WHY_NOT["unknown"].format(name=name), Exit.NOT_FOUND)
    if as_json:
        click.echo(as_json_text(found))
        return
    for line in entries(asdict(found[0])):
        click.echo(line)


def _show_events(broker: Broker, name: str, limit: int, *, follow: bool, as_json: bool) -> None:
    rows, at = queries_events.events(broker, name, most=limit)
    if not follow:
        now, none = moment(fleet.now_ms(broker)), "nothing has happened to it yet"
        people = [replace(row, why=row.why.partition("\n")[0]) for row in rows]
        columns = ["at", "what", "subject", "why"]
        show(rows, as_json=as_json, columns=columns, now=now, none=none, people=people)
        return
    while True:
        for row in rows:
            click.echo(as_json_line(row) if as_json else _line(row))
        time.sleep(_POLL_S)
        rows, at = queries_events.events_after(broker, name, at)


def _line(row: queries_events.ListedEvent) -> str:
    return visible(" ".join([plain(row.at), row.what, row.subject, row.why]))


def _roll_back(broker: Broker, name: str) -> None:
    found = [row for row in fleet.endpoints(broker) if row.name == name]
    if not found:
        raise Stop(_WHY_NOT["unknown"].format(name=name), Exit.NOT_FOUND)
    before = found[0].revision
    verdict, revision = broker.run(broker.transitions.rollback(name, before))
    if verdict != "ok":
        code = Exit.NOT_FOUND if verdict == "unknown" else Exit.REFUSED
        raise Stop(_WHY_NOT[verdict].format(name=name), code)
    keep_artifact_of(broker, keyring(load_settings()), name, revision)
    click.echo(f"{name}: revision {revision[:12]} is current again, {before[:12]} no longer")


@dataclass(frozen=True, slots=True)
class _EndpointForPeople:
    """An endpoint in few words."""

    name: str
    revision: str
    workers: str
    initializing: int
    idle: int
    running: int
    throttled: int
    outdated: int
    unhealthy: int
    reason: str | None
    since: datetime | None


def _short(row: fleet.ListedEndpoint) -> _EndpointForPeople:
    return _EndpointForPeople(
        name=row.name,
        revision=row.revision[:12],
        workers=f"{plain(row.workers_min)}–{plain(row.workers_max)}",
        reason=row.reason,
        since=row.since,
        **{state: getattr(row, state) for state in fleet.WORKER_STATES},
    )
