"""Commands of the private broker and what runs beside it: up, down, status."""

from __future__ import annotations

import ipaddress
import re
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flashq._version import __version__
from flashq.cli import example
from flashq.cli.connection import counted, has_gateway
from flashq.cli.render import as_json_text, entries, plain
from flashq.errors import BrokerError, ConfigurationError, FlashqError

if TYPE_CHECKING:
    from flashq.embedded import Membership
    from flashq.settings import Settings

NOTHING_RUNS = 3
DEFAULT_PORT = 6379
_DRAIN_S = 30.0
_ASK_S = 1.0
_HOST_S = 10.0


def _load_settings() -> Settings:
    from flashq.settings import Settings

    return Settings.load()


def _own_settings() -> Settings:
    """The settings, where they name no broker: these commands are about the private one."""
    settings = _load_settings()
    if settings.redis_url is not None:
        raise ConfigurationError(
            f"{settings.sources['redis_url']} names a broker, {settings.shown_redis_url}: scripts use it;"
            " take it away to use a private one"
        )
    return settings


def read_listen(context: object, parameter: object, given: str | None) -> tuple[str, int] | None:
    """ADDR, ADDR:PORT, [ADDR] or [ADDR]:PORT as (address, port)."""
    if given is None:
        return None
    form = r"\[([0-9A-Fa-f:.%]+)\](?::(\d+))?|([^:\[\]]+)(?::(\d+))?|([0-9A-Fa-f]*:[0-9A-Fa-f]*:[^\[\]]*)"
    match = re.fullmatch(form, given)
    address = (match[1] or match[3] or match[5]) if match else ""
    port = int((match[2] or match[4] or DEFAULT_PORT) if match else 0)
    if not address or not 0 < port < 65536:
        raise click.BadParameter(f"{given!r} is not ADDR or ADDR:PORT, such as 10.0.0.5:{DEFAULT_PORT}")
    return address, port


# -- up ----------------------------------------------------------------------------------------------


@click.command(
    epilog=example("flashq up", "flashq up --detach --resume", "flashq up --listen 127.0.0.1:6380")
)
@click.option("--detach", is_flag=True, help="Return when it is up; `flashq down` ends it.")
@click.option("--resume", is_flag=True, help="Run the jobs that an earlier run left unfinished.")
@click.option(
    "--listen",
    callback=read_listen,
    metavar="ADDR[:PORT]",
    help=f"Answer other machines too (default port {DEFAULT_PORT}).",
)
@click.option("--allow-plaintext", is_flag=True, help="Listen beyond this machine without encryption.")
@click.option(
    "--gateway/--no-gateway",
    default=True,
    help="Serve HTTP on this machine (`flashq gateway`), where the extra `gateway` is installed.",
)
def up(
    detach: bool, resume: bool, listen: tuple[str, int] | None, allow_plaintext: bool, gateway: bool
) -> None:
    """Keep a private broker, a host agent, an autoscaler and a gateway running.

    Scripts of the same user and FLASHQ_HOME join them. Ctrl-C ends them once running jobs are done, at most
    30 s later; a second Ctrl-C does at once.

    --listen gives the broker a password and prints the line that adds a second machine's workers.
    """
    from flashq import embedded

    settings = _own_settings()
    if listen is not None:
        _check_exposure(listen[0], allow_plaintext)
    plan = embedded.Plan.of(settings, listen=listen)
    try:
        membership = embedded.join(
            settings, plan=plan, up=True, resume=resume, gateway=gateway and has_gateway()
        )
    except embedded.AlreadyUp as already:
        if not detach and not resume:
            raise
        _check_listens(already.status, listen)
        click.echo(f"it is up already in {settings.home} (process {already.status['pid']})")
        _show_join_line(settings, listen)
        return
    try:
        _check_listens(membership.status, listen)
    except FlashqError:
        membership.leave()
        raise
    _await_host(settings, membership.url)
    pid = membership.status["pid"]
    if detach:
        membership.keep()
        membership.leave()
        click.echo(f"up in {settings.home} (process {pid}); `flashq down` ends it")
        _show_join_line(settings, listen)
        return
    click.echo(f"up in {settings.home} (process {pid}); logs are in {settings.home / 'logs'}; Ctrl-C ends it")
    _show_join_line(settings, listen)
    _stay(settings, membership)


def _await_host(settings: Settings, url: str) -> None:
    """Until its host agent has reported, so that what is looked at next is what there is; not for long."""
    deadline = time.monotonic() + _HOST_S
    while not (found := _fleet(url, settings)[0]):
        if time.monotonic() > deadline:
            why = "the broker does not answer" if found is None else "its host agent has not reported"
            click.echo(f"flashq: {why} within {_HOST_S:.0f} s: see {settings.home / 'logs'}", err=True)
            return
        time.sleep(0.02)


def _stay(settings: Settings, membership: Membership) -> None:
    """Until the stack ends, or this process is told to end it."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        membership.await_end()
    except KeyboardInterrupt:
        _bring_down(settings, _DRAIN_S)


def _check_exposure(address: str, allow_plaintext: bool) -> None:
    """Refuse to send passwords and jobs over a network in the clear, unless told to."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except OSError as error:
        raise ConfigurationError(f"--listen {address}: {error.strerror}") from None
    if allow_plaintext or all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found):
        return
    raise ConfigurationError(
        f"--listen {address}: beyond this machine everything would travel unencrypted, the password too."
        " On a private network say --allow-plaintext; else run a broker with TLS and set FLASHQ_REDIS_URL"
    )


def _check_listens(status: dict[str, Any], listen: tuple[str, int] | None) -> None:
    if listen is not None and status["listen"] != list(listen):
        raise BrokerError(
            f"a stack runs already (process {status['pid']}) that does not listen there: `flashq down` first"
        )


def _show_join_line(settings: Settings, listen: tuple[str, int] | None) -> None:
    if listen is None:
        return
    from flashq import embedded

    token = embedded.JoinToken(embedded.broker_password(settings.home), embedded.secrets(settings))
    address = _reachable(listen[0])
    shown = f"[{address}]" if ":" in address else address
    click.echo("To add another machine's workers, run there (the token is a secret):")
    click.echo(f"  FLASHQ_JOIN={token.encode()} flashq host --join redis://{shown}:{listen[1]}")


def _reachable(address: str) -> str:
    """An address that others can use, for one that means every address of this machine."""
    wildcards = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104 — compared with
    family = wildcards.get(address)
    if family is None:
        return address
    outside = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}[family]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # sends nothing: asks which way it would go
        try:
            probe.connect((outside, 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


# -- down --------------------------------------------------------------------------------------------


@click.command(epilog=example("flashq down", "flashq down --wait 300", "flashq down --now"))
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=_DRAIN_S,
    show_default=True,
    metavar="SECONDS",
    help="How long running jobs may take to end.",
)
@click.option("--now", is_flag=True, help="Do not wait for running jobs; they stay unfinished.")
def down(wait_s: float, now: bool) -> None:
    """End what `flashq up` keeps running. Unfinished jobs stay for `flashq up --resume`."""
    settings = _own_settings()
    if not _bring_down(settings, 0.0 if now else wait_s):
        click.echo(f"nothing is up in {settings.home}", err=True)


def _bring_down(settings: Settings, drain_s: float) -> bool:
    """End the stack; False where there was none."""
    from flashq import embedded

    said = embedded.stop(settings, drain_s=drain_s)
    if said is None:
        return False
    if "error" in said:
        raise BrokerError(said["error"])
    unfinished = said.get("unfinished", 0)
    kept = ""
    if unfinished:
        verb, pronoun = ("is", "it") if unfinished == 1 else ("are", "them")
        kept = f"; {counted(unfinished, 'unfinished job')} {verb} kept: `flashq up --resume` runs {pronoun}"
    click.echo(f"down in {settings.home}{kept}")
    return True


# -- status ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is in force. What does not apply, or is not known, is None."""

    broker: str | None
    """Its address, without its password."""
    gateway: str | None = None
    """Where the HTTP gateway listens."""
    hosts: list[dict[str, Any]] | None = None
    """id, hostname and state of each machine that runs workers."""
    autoscalers: list[dict[str, Any]] | None = None
    """id and state (leads, silent, stands by) of each; of the leader its epoch, and since when it leads."""
    version: str = __version__
    running: bool
    source: str | None = None
    """What names the broker, or keeps the private one running."""
    home: str
    pid: int | None = None
    """The keeper of the private broker."""
    listen: str | None = None
    """Where the private broker answers other machines."""
    held: int | None = None
    """Unfinished jobs of earlier runs, which `flashq up --resume` runs."""
    problem: str | None = None


@click.command(
    epilog=example("flashq status", "flashq status --json | jq '.[0].broker'")
    + "\n\n\b\nExit codes:\n  0  it runs\n  3  it does not: none is up, or the one configured does not answer"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of one object.")
def status(as_json: bool) -> None:
    """Say which broker is in force, whether it runs, with which hosts, and which autoscaler leads."""
    settings = _load_settings()
    report = _private(settings) if settings.redis_url is None else _configured(settings)
    if as_json:
        click.echo(as_json_text([report]))
    else:
        words = {"hosts": _hosts_in_words(report), "autoscalers": _autoscalers_in_words(report)}
        for line in entries(asdict(report) | words):
            click.echo(line)
    if not report.running:
        sys.exit(NOTHING_RUNS)


def _configured(settings: Settings) -> Report:
    hosts, autoscalers, gateway, problem = _fleet(settings.redis_url or "", settings)
    return Report(
        broker=settings.shown_redis_url,
        gateway=gateway,
        hosts=hosts,
        autoscalers=autoscalers,
        running=hosts is not None,
        source=settings.sources["redis_url"],
        home=str(settings.home),
        problem=problem,
    )


def _private(settings: Settings) -> Report:
    from flashq import embedded
    from flashq.model.address import masked

    said = embedded.look(settings)
    if said is None or said["phase"] != "ready":
        problem = embedded.last_problem(settings) if said is None else f"it is {said['phase']}"
        return Report(broker=None, running=False, home=str(settings.home), problem=problem or None)
    hosts, autoscalers, gateway, problem = _fleet(said["url"], settings)
    problem = problem or said.get("problem") or None
    for name, process in said["processes"].items():
        if process["failing"]:
            problem = f"{name} keeps ending ({process['last_end']}): see {settings.home}/logs/{name}.log"
    return Report(
        broker=masked(said["url"]),
        gateway=gateway,
        hosts=hosts,
        autoscalers=autoscalers,
        version=said["version"],
        running=True,
        source="flashq up" if said["up"] else "a script",
        home=str(settings.home),
        pid=said["pid"],
        listen="{}:{}".format(*said["listen"]) if said["listen"] else None,
        held=said["held"],
        problem=problem,
    )


_Rows = list[dict[str, Any]] | None


def _fleet(url: str, settings: Settings) -> tuple[_Rows, _Rows, str | None, str | None]:
    """Hosts, autoscalers and a gateway's address as the broker knows them; or none, and why it cannot be asked."""
    from flashq.store import gateways
    from flashq.store.broker import Broker
    from flashq.store.queries_fleet import autoscalers, hosts

    broker = Broker(url, prefix=settings.rq_prefix, patience_s=_ASK_S)
    try:
        found, scalers, addresses = hosts(broker), autoscalers(broker), gateways.listed(broker)
    except FlashqError as error:
        return None, None, None, str(error)
    finally:
        broker.close()
    shown = [{"id": host.id, "hostname": host.hostname, "state": host.state} for host in found]
    return shown, [asdict(scaler) for scaler in scalers], addresses[0] if addresses else None, None


def _hosts_in_words(report: Report) -> str | None:
    if report.hosts is None:
        return None
    return ", ".join(f"{host['id']} ({host['state']})" for host in report.hosts) or "none"


def _autoscalers_in_words(report: Report) -> str | None:
    if report.autoscalers is None:
        return None
    return ", ".join(map(_autoscaler_in_words, report.autoscalers)) or "none"


def _autoscaler_in_words(one: dict[str, Any]) -> str:
    since = "" if one["since"] is None else f" since {plain(one['since'])}, epoch {one['epoch']}"
    return f"{one['id']} ({one['state']}{since})"
