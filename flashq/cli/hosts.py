"""The machines that run workers: which there are, what each has, and taking one out of use."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import Exit, Stop, connected, counted, exit_codes
from flashq.cli.render import as_json_text, entries, show
from flashq.store import queries_fleet as fleet
from flashq.store.queries import moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.broker import Broker

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
_POLL_S = 0.5


class _Hosts(click.Group):
    """A group of commands; what is none of them is a host to be shown."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            return _shown.name, _shown, args
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, slots=True)
class _HostForPeople:
    """A host in few words."""

    id: str
    hostname: str | None
    cpus: float | None
    memory: str | None
    gpus: str | None
    workers: int
    since: Any
    state: str


def _short_host(host: fleet.ListedHost) -> _HostForPeople:
    names = [str(gpu.get("name", "?")) for gpu in host.gpus]
    gpus = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    unusable = [f"{gpu.get('uuid', '?')}: {why}" for gpu in host.gpus if (why := _unusable(gpu))]
    gpus += "".join(f" ({why})" for why in [*unusable, *host.gpu_faults])
    memory = None if host.memory is None else f"{host.memory / 2**30:.1f} GiB"
    values = {f.name: getattr(host, f.name) for f in fields(_HostForPeople)}
    return _HostForPeople(**{**values, "memory": memory, "gpus": gpus.strip() or None})


def _unusable(gpu: Mapping[str, Any]) -> str:
    """Why no worker gets this GPU; empty: one may."""
    why = gpu.get("fault") or gpu.get("kept") or ""
    return str(why) or ("in use by another program" if gpu.get("foreign") else "")


def _gpu_for_people(gpu: Mapping[str, Any]) -> dict[str, Any]:
    """What one wants to know of a GPU."""
    told: dict[str, Any] = {"gpu": gpu.get("uuid"), "name": gpu.get("name")}
    for name, field in (("memory", "memory_bytes"), ("used", "used_bytes"), ("peak", "peak_bytes")):
        size = gpu.get(field)
        told[name] = f"{size / 2**30:.1f} GiB" if isinstance(size, int) else None
    busy = gpu.get("utilisation")
    told["utilisation"] = f"{busy} %" if isinstance(busy, int) else None
    told |= {name: gpu.get(name) for name in ("capability", "ecc_errors", "xid", "worker")}
    return {**told, "unusable": _unusable(gpu) or None}


@click.group(
    cls=_Hosts,
    invoke_without_command=True,
    subcommand_metavar="[HOST | COMMAND …]",
    epilog=example(
        "flashq hosts",
        "flashq hosts --json",
        "flashq hosts gpu1-5f0c2b1a",
        "flashq hosts drain gpu1-5f0c2b1a --wait",
    )
    + exit_codes(Exit.NOT_FOUND),
)
@_JSON
@click.pass_context
def hosts(context: click.Context, as_json: bool) -> None:
    """List the machines that can run workers, and what they have.

    Of one HOST, by its id: also each GPU, its use and the worker that has it, and the environments built
    there, with each package's version.
    """
    if context.invoked_subcommand is not None:
        return
    with connected() as broker:
        rows = fleet.hosts(broker)
        now = moment(fleet.now_ms(broker))
    columns = [f.name for f in fields(_HostForPeople)]
    none = "no hosts: `flashq host` makes this machine one"
    show(rows, as_json=as_json, columns=columns, now=now, none=none, people=[_short_host(r) for r in rows])


@click.command(name="HOST")
@click.argument("host")
@_JSON
@click.pass_context
def _shown(context: click.Context, host: str, as_json: bool) -> None:
    assert context.parent is not None
    _one_host(host, as_json or context.parent.params["as_json"])


def _one_host(name: str, as_json: bool) -> None:
    with connected() as broker:
        found = fleet.host(broker, name)
    if as_json:
        click.echo(as_json_text([found]))
        return
    short = asdict(_short_host(found))
    more: dict[str, Any]
    more = {"driver": found.driver, "cuda": found.cuda, "labels": ", ".join(found.labels) or None}
    if found.drained_since is not None:
        more |= {"drained_since": found.drained_since, "drain_reason": found.drain_reason}
    more |= {"pythons": ", ".join(found.pythons) or None, "containers": found.engine}
    more |= {"lacks": "\n".join(found.lacks)}
    for line in entries({**short, **more, "environments": len(found.environments)}):
        click.echo(line)
    for gpu in found.gpus:
        click.echo("")
        for line in entries(_gpu_for_people(gpu)):
            click.echo(line)
    for one in found.environments:
        click.echo("")
        size = None if one.size is None else f"{one.size / 2**20:.1f} MiB"
        told = {
            "environment": one.digest[:12],
            "python": one.python,
            "size": size,
            "endpoints": ", ".join(one.endpoints) or None,
            "built_at": one.built_at,
            "used_at": one.used_at,
            "requirements": "\n".join(one.requirements),
            "packages": "\n".join(one.packages),
        }
        for line in entries(told):
            click.echo(line)


# -- taking one out of use ---------------------------------------------------------------------------


@hosts.command(
    epilog=example(
        "flashq hosts drain gpu1-5f0c2b1a",
        "flashq hosts drain gpu1-5f0c2b1a --reason 'new driver' --wait",
    )
    + exit_codes(Exit.NOT_FOUND)
)
@click.argument("host")
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever looks at the host.")
@click.option(
    "--wait", is_flag=True, help="Until no worker is left there. Ctrl-C ends the waiting, not the draining."
)
def drain(host: str, reason: str, wait: bool) -> None:
    """Take a host out of use: no worker is started there; those there finish the jobs they have, and end.

    Workers that are wanted still are started on other hosts. It stays so, restarts of the host, its agent and the
    broker included, until `flashq hosts resume`. An autoscaler has to run.
    """
    with connected() as broker:
        if broker.run(broker.transitions.host_drain(host, drained=True, why=_one_line(reason))) != "ok":
            raise Stop(f"no host {host} is on record: see `flashq hosts`", Exit.NOT_FOUND)
        click.echo(f"{host}: is drained")
        if wait:
            _await_empty(broker, host)


@hosts.command(epilog=example("flashq hosts resume gpu1-5f0c2b1a") + exit_codes(Exit.NOT_FOUND))
@click.argument("host")
def resume(host: str) -> None:
    """Use a host again that was drained."""
    with connected() as broker:
        if broker.run(broker.transitions.host_drain(host, drained=False)) != "ok":
            raise Stop(f"no host {host} is on record, nor drained: see `flashq hosts`", Exit.NOT_FOUND)
        click.echo(f"{host}: is used again")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _await_empty(broker: Broker, host: str) -> None:
    told = -1
    while left := fleet.workers_on(broker, host):
        if left != told:
            click.echo(f"{host}: {counted(left, 'worker')} left", err=True)
            told = left
        time.sleep(_POLL_S)
    click.echo(f"{host}: no worker is left")
