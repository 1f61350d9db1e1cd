"""`flashq doctor`: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.connection import Exit, connected, exit_codes, explained, load_settings
from flashq.cli.render import show

if TYPE_CHECKING:
    from flashq.settings import Settings


@click.command(
    epilog=example(
        "flashq doctor",
        "flashq doctor --json | jq '.[] | select(.state == \"fail\")'",
        "FLASHQ_REDIS_URL=redis://flashq-admin:…@broker:6379 flashq doctor --load",
    )
    + exit_codes(Exit.UNWELL)
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option(
    "--load", is_flag=True, help="First load flashq's functions into the broker, as a user who may."
)
def doctor(as_json: bool, load: bool) -> None:
    """Look over this machine, the broker and all that is on record there, and say what to do.

    Asks, and changes nothing but what --load does. What this user of the broker may not ask is said to be unknown.
    """
    from flashq.doctor import State
    from flashq.doctor.examine import examine

    with explained():
        settings = load_settings()
        if load:
            _load(settings)
        found = list(examine(settings))
    show(found, as_json=as_json, columns=("state", "check", "found", "advice"), none="")
    counts = {state: sum(one.state is state for one in found) for state in State}
    if not as_json:
        click.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count), err=True)
    if counts[State.FAIL]:
        sys.exit(Exit.UNWELL)


def _load(settings: Settings) -> None:
    from flashq.store.queries_health import load_library

    with connected(settings) as broker:
        what = "loaded" if load_library(broker) else "there already"
        click.echo(f"flashq's functions ({broker.library.name}): {what}", err=True)
