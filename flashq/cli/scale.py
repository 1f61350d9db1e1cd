"""`flashq scale`: an endpoint's workers, set by its operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import Exit, Stop, connected, exit_codes
from flashq.errors import SpecError
from flashq.model import parameters
from flashq.model.spec import canonical_json
from flashq.store.queries import read_hash

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_UNKNOWN = "no endpoint {name} is registered: see `flashq endpoints`"


def _workers(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is neither MIN,MAX nor MAX (as in 1,5)", param_hint="--workers")
    numbers = [int(part) for part in parts]
    try:
        return parameters.workers(tuple(numbers) if len(numbers) == 2 else numbers[0])
    except (SpecError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--workers") from None


@click.command(
    epilog=example(
        "flashq scale embed --workers 1,5",
        "flashq scale embed --idle-timeout 300",
        "flashq scale embed --reset",
    )
    + exit_codes(Exit.NOT_FOUND, Exit.REFUSED)
)
@click.argument("endpoint")
@click.option(
    "--workers", metavar="MIN,MAX", help="At least and at most so many; one number is MAX, with 0 as MIN."
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(0, parameters.LONGEST_S),
    metavar="SECONDS",
    help="How long those beyond MIN stay idle.",
)
@click.option("--reset", is_flag=True, help="Back to what the endpoint's program says.")
def scale(endpoint: str, workers: str | None, idle_timeout: float | None, reset: bool) -> None:
    """Set how many workers an endpoint has, at once and without replacing any.

    It holds until its program says something else than it did: starting that again as it is changes nothing.
    """
    changes: dict[str, Any] = {}
    if workers is not None:
        changes["workers_min"], changes["workers_max"] = _workers(workers)
    if idle_timeout is not None:
        changes["idle_timeout"] = idle_timeout
    if reset == bool(changes):
        raise click.UsageError("give --workers, --idle-timeout or both; or --reset alone")
    with connected() as broker:
        before, after = _set(broker, endpoint, changes)
    click.echo(f"{endpoint}: {_said(before)} → {_said(after)}")


def _set(broker: Broker, endpoint: str, changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings before and after; no `changes`: back to the program's."""
    while True:
        text = read_hash(broker, broker.keys.of("endpoint", endpoint), ("scaling",))["scaling"]
        if not text:
            raise Stop(_UNKNOWN.format(name=endpoint), Exit.NOT_FOUND)
        before: dict[str, Any] = json.loads(text)
        wanted = canonical_json({**before, **changes}) if changes else ""
        verdict, now = broker.run(broker.transitions.scale(endpoint, text, wanted))
        if verdict == "unknown":
            raise Stop(_UNKNOWN.format(name=endpoint), Exit.NOT_FOUND)
        if verdict == "ok":
            return before, json.loads(now)


def _said(scaling: dict[str, Any]) -> str:
    return f"{scaling['workers_min']}–{scaling['workers_max']} workers, idle_timeout {scaling['idle_timeout']:g} s"
