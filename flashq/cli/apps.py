"""`flashq app` and `flashq env`: what is deployed, and to which environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from flashq.apps import records
from flashq.cli import example
from flashq.cli.connection import Exit, Stop, connected, exit_codes
from flashq.cli.render import show
from flashq.store.queries import moment
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from datetime import datetime

    from flashq.apps.records import DeployedApp
    from flashq.store.broker import Broker

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
_PURGE = click.option("--purge", is_flag=True, help="Cancel the jobs that wait for their endpoints first.")


@dataclass(frozen=True, slots=True)
class ListedApp:
    """One app in one environment."""

    app: str
    environment: str
    endpoints: list[str]
    artifact: str
    fingerprint: str
    size: int
    deployed_at: datetime | None
    by: str


@dataclass(frozen=True, slots=True)
class ListedDeployment:
    """One environment."""

    environment: str
    apps: list[str]
    endpoints: int
    deployed_at: datetime | None


def _listed(one: DeployedApp) -> ListedApp:
    return ListedApp(
        app=one.app,
        environment=one.environment,
        endpoints=sorted(one.endpoints.values()),
        artifact=one.artifact,
        fingerprint=one.fingerprint,
        size=one.size,
        deployed_at=moment(str(one.deployed_ms)),
        by=one.by,
    )


def _show_apps(broker: Broker, apps: list[DeployedApp], as_json: bool) -> None:
    columns = ["app", "environment", "endpoints", "artifact", "size", "deployed_at", "by"]
    now = moment(now_ms(broker))
    rows = [_listed(one) for one in apps]
    people = [_for_people(row) for row in rows]
    show(
        rows,
        as_json=as_json,
        columns=columns,
        now=now,
        none="no app is deployed: see `flashq deploy`",
        people=people,
    )


@dataclass(frozen=True, slots=True)
class _AppForPeople:
    app: str
    environment: str
    endpoints: str
    artifact: str
    size: int
    deployed_at: datetime | None
    by: str


def _for_people(row: ListedApp) -> _AppForPeople:
    return _AppForPeople(
        row.app,
        row.environment,
        " ".join(row.endpoints),
        row.artifact[:12],
        row.size,
        row.deployed_at,
        row.by,
    )


# -- app -----------------------------------------------------------------------------------------------


@click.group(epilog=example("flashq app list"))
def app() -> None:
    """What apps are deployed."""


@app.command("list", epilog=example("flashq app list --json") + exit_codes())
@_JSON
def app_list(as_json: bool) -> None:
    """List apps, with their endpoints, in each environment."""
    with connected() as broker:
        _show_apps(broker, records.deployed(broker), as_json)


@app.command("get", epilog=example("flashq app get myapp") + exit_codes(Exit.NOT_FOUND))
@click.argument("name")
@_JSON
def app_get(name: str, as_json: bool) -> None:
    """Show one app."""
    with connected() as broker:
        found = records.deployed(broker, app=name)
        if not found:
            raise Stop(f"no app {name} is deployed: see `flashq app list`", Exit.NOT_FOUND)
        _show_apps(broker, found, as_json)


@app.command("delete", epilog=example("flashq app delete myapp") + exit_codes(Exit.NOT_FOUND, Exit.REFUSED))
@click.argument("name")
@_PURGE
def app_delete(name: str, purge: bool) -> None:
    """Undeploy an app from every environment."""
    from flashq.cli.deploy import undeploy_apps

    with connected() as broker:
        found = records.deployed(broker, app=name)
        if not found:
            raise Stop(f"no app {name} is deployed: see `flashq app list`", Exit.NOT_FOUND)
        undeploy_apps(broker, found, purge)


# -- env -----------------------------------------------------------------------------------------------


@click.group(epilog=example("flashq env list"))
def env() -> None:
    """Environments that apps are deployed to, side by side: there is one while an app is in it."""


@env.command("list", epilog=example("flashq env list --json") + exit_codes())
@_JSON
def env_list(as_json: bool) -> None:
    """List environments."""
    with connected() as broker:
        found = records.deployed(broker)
        now = moment(now_ms(broker))
    rows = []
    for name in sorted({one.environment for one in found}):
        apps = [one for one in found if one.environment == name]
        rows.append(
            ListedDeployment(
                environment=name,
                apps=[one.app for one in apps],
                endpoints=sum(len(one.endpoints) for one in apps),
                deployed_at=moment(str(max(one.deployed_ms for one in apps))),
            )
        )
    columns = ["environment", "apps", "endpoints", "deployed_at"]
    show(rows, as_json=as_json, columns=columns, now=now, none="no app is deployed: see `flashq deploy`")


@env.command("get", epilog=example("flashq env get staging") + exit_codes(Exit.NOT_FOUND))
@click.argument("name")
@_JSON
def env_get(name: str, as_json: bool) -> None:
    """Show what is deployed to one environment."""
    with connected() as broker:
        _show_apps(broker, _found(broker, name), as_json)


@env.command("delete", epilog=example("flashq env delete staging") + exit_codes(Exit.NOT_FOUND, Exit.REFUSED))
@click.argument("name")
@_PURGE
def env_delete(name: str, purge: bool) -> None:
    """Undeploy everything that is in one environment."""
    from flashq.cli.deploy import undeploy_apps

    with connected() as broker:
        undeploy_apps(broker, _found(broker, name), purge)


def _found(broker: Broker, name: str) -> list[DeployedApp]:
    found = records.deployed(broker, environment=name)
    if not found:
        raise Stop(f"nothing is deployed to {name}: see `flashq env list`", Exit.NOT_FOUND)
    return found
