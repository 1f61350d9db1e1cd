"""Commands for the gateway's API keys: make, list, revoke. A key is shown once, when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.connection import Exit, Stop, connected, exit_codes
from flashq.cli.render import as_json_text, show
from flashq.store import api_keys
from flashq.store.queries import moment
from flashq.store.queries_fleet import now_ms, require_endpoint

if TYPE_CHECKING:
    from datetime import datetime

    from flashq.store.api_keys import ApiKey

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 100 * 365 * 86_400


@click.group(epilog=example("flashq apikeys make ci --endpoint embed --expires 30d", "flashq apikeys list"))
def apikeys() -> None:
    """Make, list and revoke the keys that callers of the HTTP gateway show."""


def _seconds(context: object, parameter: object, given: str | None) -> float | None:
    if given is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", given)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise click.BadParameter(f"{given!r} is no time such as 12h or 30d")
    return seconds


@dataclass(frozen=True, slots=True)
class ListedApiKey:
    """One key. `state`: valid, or expired."""

    id: str
    name: str
    endpoints: list[str] | None  # that it is for; None: all
    made: datetime | None
    expires: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class MadeApiKey:
    """A key, the one time that it is shown."""

    id: str
    name: str
    key: str


def _row(key: ApiKey, at_ms: int) -> ListedApiKey:
    over = key.expires_ms is not None and key.expires_ms <= at_ms
    return ListedApiKey(
        id=key.id,
        name=key.name,
        endpoints=list(key.endpoints) or None,
        made=moment(key.created_ms),
        expires=moment(key.expires_ms),
        state="expired" if over else "valid",
    )


@apikeys.command(
    epilog=example("flashq apikeys make ci", "flashq apikeys make demo --endpoint embed --expires 12h")
    + exit_codes(Exit.NOT_FOUND)
)
@click.argument("name")
@click.option("--endpoint", "endpoints", multiple=True, help="Only for this endpoint (repeatable).")
@click.option("--expires", callback=_seconds, metavar="TIME", help="Ends after so long: 30m, 12h, 90d.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of one object, with the key.")
def make(name: str, endpoints: tuple[str, ...], expires: float | None, as_json: bool) -> None:
    """Make a key and print it. It cannot be shown again: the broker keeps its digest alone.

    From the first key on, a gateway asks for one with each request.
    """
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise click.BadParameter("must be 1 to 100 characters", param_hint="NAME")
    with connected() as broker:
        for endpoint in endpoints:
            require_endpoint(broker, endpoint)
        key, record = api_keys.make(broker, name, endpoints, expires)
    if as_json:
        click.echo(as_json_text([MadeApiKey(record.id, name, key)]))
    else:
        click.echo(key)


@apikeys.command("list", epilog=example("flashq apikeys list", "flashq apikeys list --json") + exit_codes())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_keys(as_json: bool) -> None:
    """List the keys, by id; not what they are."""
    with connected() as broker:
        at = now_ms(broker)
        rows = [_row(key, at) for key in api_keys.listed(broker)]
    columns = ("id", "name", "endpoints", "made", "expires", "state")
    show(rows, as_json=as_json, columns=columns, none="no keys: the gateway listens on this machine alone")


@apikeys.command(epilog=example("flashq apikeys revoke 5f3a9c01d2e4") + exit_codes(Exit.NOT_FOUND))
@click.argument("key", metavar="ID")
def revoke(key: str) -> None:
    """End a key. Gateways take it for two seconds more, at most."""
    number = api_keys.id_of(key) or key
    with connected() as broker:
        if not api_keys.revoke(broker, number):
            raise Stop(f"no API key {number[:40]} is on record: see `flashq apikeys list`", Exit.NOT_FOUND)
        left = api_keys.listed(broker)
    click.echo(f"revoked {number}")
    if not left:
        click.echo(
            "no key is left: gateways that listen on their machine alone take calls of everybody there again",
            err=True,
        )
