"""`flashq run`: a project's endpoints served on this machine while they are written."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from flashq.cli import example
from flashq.cli.connection import Exit, Stop, exit_codes, explained, load_settings
from flashq.model.routes import parse
from flashq.model.visible import visible_lines, visible_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.by_name import Current
    from flashq.dev.project import LiveEndpoint

_SHORT_ID = 8
_NAMED = 5


class _Terminal:
    """What people see of it. From several threads, a line at a time."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._address = ""
        self._current: dict[str, Current] = {}

    def serving(self, address: str, live: Sequence[LiveEndpoint], current: dict[str, Current]) -> None:
        """See `flashq.dev.server.Teller`."""
        self._address = address
        if live:
            self._console.print(_table(live, current, address))
        click.echo(f"serving at {address} (explorer: {address}/docs); Ctrl-C ends it")
        sys.stdout.flush()

    def reloaded(self, changed: Sequence[str], took_s: float) -> None:
        """See `flashq.dev.server.Teller`."""
        names = ", ".join(changed[:_NAMED]) or "nothing changed"
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        click.echo(f"reloaded in {took_s:.2f} s: {names}{more}")
        sys.stdout.flush()

    def failed(self, why: str, *, served: bool) -> None:
        """See `flashq.dev.server.Teller`."""
        goes_on = (
            "what was good last goes on being served"
            if served
            else "nothing is served yet: save a file, and it is tried again"
        )
        self.warned(f"{why}\n{goes_on}")

    def warned(self, why: str) -> None:
        """See `flashq.dev.server.Teller`."""
        click.echo(f"flashq: {visible_lines(why)}", err=True)

    def printed(self, text: str) -> None:
        """See `flashq.dev.server.Teller`."""
        if text.strip():
            click.echo(visible_lines(text.rstrip()), err=True)

    def line(self, endpoint: str, job: str, text: str) -> None:
        """See `flashq.dev.server.Teller`."""
        click.echo(f"{endpoint} {job[-_SHORT_ID:]} | {visible_output(text)}", err=True)


def _table(live: Sequence[LiveEndpoint], current: dict[str, Current], address: str) -> Table:
    from flashq.dev.aliases import answers_requests, calls_of, prefix_of

    table = Table(box=None, pad_edge=False)
    for column in ("ENDPOINT", "ADDRESS", "ABOUT"):
        table.add_column(column, overflow="fold")
    for one in live:
        routes = (
            [route for target in current[one.name].targets if (route := parse(target))]
            if one.name in current
            else []
        )
        if routes:
            for route in routes:
                table.add_row(
                    one.name, f"{route.method} {prefix_of(one)}{route.path}", one.routes.get(route.target, "")
                )
            continue
        if one.name in current and answers_requests(current[one.name].targets):
            table.add_row(one.name, f"ANY {prefix_of(one)}/…", "what its image serves")
            continue
        same = [other for other in live if other.file == one.file]
        table.add_row(one.name, f"POST {calls_of(one, len(same) == 1)}/runsync", one.about)
    return table


@click.command(
    epilog=example(
        "flashq run",
        "flashq dev ./myapp --port 9000",
        "flashq run gpu_worker.py --auto-provision",
    )
    + exit_codes()
)
@click.argument("project", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDR", help="Listen there: loopback alone."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="By default 8888, or the next that is free."
)
@click.option("--reload/--no-reload", default=True, help="Load the project again when a file of it is saved.")
@click.option(
    "--auto-provision", is_flag=True, help="Start a worker of each endpoint now, not at its first call."
)
@click.option("--compat", is_flag=True, help="The project is written for runpod_flash.")
def run(project: Path, host: str, port: int | None, reload: bool, auto_provision: bool, compat: bool) -> int:
    """Serve a project's endpoints on this machine while they are written.

    PROJECT is a folder or a file; what it defines is registered under names that begin with `live-`, which are taken
    away in the end. A function of FILE.py is called at /FILE/runsync (of several: /FILE/FUNCTION/runsync), routes
    are at /FILE/PATH, and Runpod's API is at /v2/NAME. Saving a file loads it again; running jobs go on.
    """
    missing = [
        name
        for name in ("fastapi", "uvicorn", "watchfiles", "pathspec")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise Stop("this needs more than is installed here: pip install 'flashq[gateway,apps]'", Exit.ERROR)
    signal.signal(signal.SIGTERM, _interrupt)
    with explained():
        from flashq.dev.project import Project
        from flashq.dev.server import DevServer
        from flashq.gateway.serve import is_loopback

        if not is_loopback(host):
            raise click.UsageError(
                f"--host {host}: this is for one's own machine; `flashq gateway` is for others"
            )
        settings = load_settings()
        served = DevServer(Project(project, provision=auto_provision, compat=compat), settings, _Terminal())
        served.run(host, port, reload=reload)
    return Exit.OK


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
