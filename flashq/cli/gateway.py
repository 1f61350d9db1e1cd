"""The command that runs the HTTP gateway in the foreground."""

from __future__ import annotations

from dataclasses import replace

import click

from flashq import logs, private
from flashq.cli import example
from flashq.cli.connection import (
    Exit,
    Stop,
    broker_url,
    exit_codes,
    explained,
    has_gateway,
    keyring,
    load_settings,
)

DEFAULT_PORT = 8288


@click.command(
    epilog=example(
        "flashq gateway",
        "flashq gateway --port 9000",
        "flashq apikeys make ci && flashq gateway --host 0.0.0.0 --allow-host gpu.example.com",
    )
    + exit_codes()
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDR",
    help="Listen there; beyond this machine only once there is an API key.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name that requests may be for (repeatable); beyond this machine: default any.",
)
@click.option(
    "--allow-internal-webhooks",
    "internal_webhooks",
    is_flag=True,
    help="Tell webhooks inside this network, too.",
)
@click.option("--next-port", is_flag=True, help="Where the port is taken, listen on the next free one.")
@click.option("--lifeline", type=int, hidden=True, help="End when this descriptor is at its end.")
def gateway(
    host: str,
    port: int,
    hosts: tuple[str, ...],
    internal_webhooks: bool,
    next_port: bool,
    lifeline: int | None,
) -> int:
    """Serve endpoints by HTTP, in JSON: Runpod's job API at /v2/NAME/run, runsync, status …; Ctrl-C ends it.

    The `runpod` package uses it with RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8288/v2. Without API keys
    (`flashq apikeys`) everybody on this machine may use it; from the first key on, each request needs one.
    """
    if not has_gateway():
        raise Stop("the gateway needs more than is installed here: pip install 'flashq[gateway]'", Exit.ERROR)
    logs.set_up()
    private.keep()
    with explained():
        settings = load_settings()
        found = replace(settings, redis_url=broker_url(settings))
        from flashq.gateway.serve import serve

        serve(
            found,
            keyring(settings),
            host,
            port,
            hosts=hosts,
            internal_webhooks=internal_webhooks,
            next_port=next_port,
            lifeline=lifeline,
            ready=lambda address: click.echo(f"listening at {address} (docs: {address}/docs)"),
        )
    return Exit.OK
