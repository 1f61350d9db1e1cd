"""Commands that run one of flashq's processes in the foreground: host, worker, autoscaler.

Worker and autoscaler are packages of their own, which the SDK does not import: a command looks its program up
by name and becomes it.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flashq import logs, private
from flashq.cli import example
from flashq.cli.connection import Exit, broker_url, explained, keyring, load_settings

if TYPE_CHECKING:
    from flashq.settings import Settings

_JOIN = "FLASHQ_JOIN"
_lifeline = click.option("--lifeline", type=int, hidden=True, help="End when this descriptor is at its end.")


def _program(module: str) -> Any:
    """The module of another package that this process is to become; it logs to stderr from here on, and is private."""
    logs.set_up()
    private.keep()
    return importlib.import_module(module)


@click.command(
    epilog=example(
        "flashq host",
        "flashq host --label zone=eu --label datacenter=EU-RO-1 --slots 4",
        f"{_JOIN}=... flashq host --join redis://10.0.0.5:6379",
    )
)
@click.option("--join", metavar="URL", help=f"Join the broker of another machine; its token is in {_JOIN}.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    callback=lambda *given: _labels(given[2]),
    help="Give this host a label, for `hosts` and `datacenter` of endpoints (repeatable).",
)
@click.option("--slots", type=click.IntRange(min=0), metavar="N", help="Run at most N workers at once.")
@click.option(
    "--cpu-fallback",
    "--embedded",
    is_flag=True,
    help="Where there is no GPU, run GPU endpoints on the CPU.",
)
@click.option(
    "--cold", is_flag=True, help="Keep no processes ready: starts take longer, and less memory is used."
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running jobs may take to end when the host ends.",
)
@_lifeline
def host(
    join: str | None,
    labels: tuple[str, ...],
    slots: int | None,
    cpu_fallback: bool,
    cold: bool,
    drain_s: float,
    lifeline: int | None,
) -> int:
    """Run workers on this machine, as the autoscaler says.

    Ctrl-C or SIGTERM lets running jobs end, then leaves; a second one ends them at once, to be run elsewhere.
    """
    with explained():
        settings = load_settings()
        if join is not None:
            settings = _joined(settings, join)
        program = _program("flashq_worker.host.program")
        options = program.HostOptions(
            lease_s=settings.lease_s,
            payload_limit=settings.payload_limit,
            durability=settings.durability,
            engine=settings.container_engine,
            engine_options=settings.container_options,
            environments=program.Limits(
                settings.environments_days * 86_400, int(settings.environments_gib * 2**30)
            ),
            drain_s=drain_s,
            labels=(*settings.labels, *labels),
            slots=slots,
            fallback_cpu=cpu_fallback,
            spare=not cold,
        )
        return int(program.serve(settings, options, lifeline))


def _labels(given: tuple[str, ...]) -> tuple[str, ...]:
    if not given:
        return ()
    from flashq.model.parameters import label

    try:
        return tuple(label(one) for one in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _joined(settings: Settings, url: str) -> Settings:
    """Settings for the broker of another machine, with what its token holds."""
    from flashq.embedded import accept_token
    from flashq.private_files import read_private
    from flashq.secret_keys import read_secret_keys

    token = os.environ.get(_JOIN)  # noqa: TID251 — a secret that is no setting: given once, then kept
    address, key_file = accept_token(url, token, settings.home)
    signing, *others = read_secret_keys(read_private(key_file))
    return replace(
        settings,
        redis_url=address,
        secret_key=signing,
        verifying_keys=tuple(others),
        secret_key_file=key_file,
    )


@click.command(epilog=example("flashq worker embed", "flashq worker embed --gpu GPU-8f3a1c02"))
@click.argument("name")
@click.option("--gpu", "gpus", multiple=True, metavar="UUID", help="Bind it to this GPU (repeatable).")
@click.option("--cpu", "on_cpu", is_flag=True, help="Run it without a GPU.")
@_lifeline
def worker(name: str, gpus: tuple[str, ...], on_cpu: bool, lifeline: int | None) -> int:
    """Run one worker of endpoint NAME here, without host agent or autoscaler, until Ctrl-C.

    \b
    Exit codes:
      0  it has left, with nothing in hand
      3  there is no such endpoint, or the broker gave the worker up
      4  it could not start
    """
    from flashq.store.broker import Broker

    with explained():
        settings = load_settings()
        broker = Broker(broker_url(settings), prefix=settings.rq_prefix)
        keys = keyring(settings)
        if gpus and on_cpu:
            raise click.UsageError("--gpu and --cpu exclude each other")
        program = _program("flashq_worker.by_hand")
        return int(program.serve(broker, keys, settings, name, gpus=gpus, on_cpu=on_cpu, lifeline=lifeline))


@click.command(epilog=example("flashq autoscaler", "flashq autoscaler --take-over"))
@click.option("--take-over", is_flag=True, help="Lead at once, in place of the one that does.")
@_lifeline
def autoscaler(take_over: bool, lifeline: int | None) -> int:
    """Start and end workers on the hosts, as queues and settings of the endpoints say. Ctrl-C ends it.

    Of several, on any machines, one leads; the others say that they stand by, and one of them takes its place
    within two thirds of a lease (10 s of 15 s) after it was last heard of, or at once when it ends in order.
    """
    with explained():
        _program("flashq_autoscaler.loop").serve(load_settings(), lifeline, take_over=take_over)
    return Exit.OK
