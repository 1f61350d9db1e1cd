"""Commands that act on an endpoint's queue: purge, pause, resume."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.connection import Exit, complain, connected, counted, exit_codes
from flashq.store import failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.store.command import Command
    from flashq.store.transitions import Transitions

# -- purge -------------------------------------------------------------------------------------------


@click.command(
    epilog=example("flashq purge embed", "flashq purge embed --failed --reason expired")
    + exit_codes(Exit.NOT_FOUND)
)
@click.argument("endpoint")
@click.option("--failed", "of_failed", is_flag=True, help="Delete those that failed or timed out instead.")
@click.option(
    "--reason", metavar="WORD", help="With --failed: only those of this reason (see `jobs --dead`)."
)
def purge(endpoint: str, of_failed: bool, reason: str | None) -> None:
    """Cancel every job that waits for an endpoint; those in progress go on."""
    if reason is not None and not of_failed:
        raise click.UsageError("--reason chooses among those that --failed deletes")
    with connected() as broker:
        if of_failed:
            count = failed.purge(broker, endpoint, reason=reason or "")
            click.echo(f"{endpoint}: {counted(count, 'failed job')} deleted")
        else:
            count = failed.purge_waiting(broker, endpoint)
            click.echo(f"{endpoint}: {counted(count, 'waiting job')} cancelled")


# -- pause, resume -----------------------------------------------------------------------------------

_ALL = click.option("--all", "everything", is_flag=True, help="Every endpoint that is registered.")


@click.command(epilog=example("flashq pause embed", "flashq pause --all") + exit_codes(Exit.NOT_FOUND))
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@_ALL
def pause(endpoints: tuple[str, ...], everything: bool) -> None:
    """Have nothing more taken from endpoints' queues: jobs are accepted and wait; those in progress go on.

    No worker is started for what waits. It stays so, restarts of the broker included, until `flashq resume`.
    """
    _on_each(endpoints, everything, lambda transitions, name: transitions.pause(name), "paused")


@click.command(epilog=example("flashq resume embed", "flashq resume --all") + exit_codes(Exit.NOT_FOUND))
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@_ALL
def resume(endpoints: tuple[str, ...], everything: bool) -> None:
    """End the pause of endpoints: idle workers and the autoscaler are woken at once."""
    _on_each(endpoints, everything, lambda transitions, name: transitions.resume(name), "resumed")


def _on_each(
    named: tuple[str, ...], everything: bool, command: Callable[[Transitions, str], Command[str]], said: str
) -> None:
    from flashq.store.queries_fleet import endpoint_names

    if bool(named) == everything:
        raise click.UsageError("name endpoints, or all with --all")
    worst = Exit.OK
    with connected() as broker:
        for name in endpoint_names(broker) if everything else named:
            if broker.run(command(broker.transitions, name)) == "ok":
                click.echo(f"{name}: {said}")
            else:
                complain(f"no endpoint {name} is registered: see `flashq endpoints`")
                worst = Exit.NOT_FOUND
    if worst:
        sys.exit(worst)
