"""Commands that act on jobs: call, logs, cancel, retry."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flashq.cli import example
from flashq.cli.connection import (
    Exit,
    Stop,
    broker_url,
    complain,
    connected,
    counted,
    exit_codes,
    keyring,
    load_settings,
)
from flashq.cli.render import on_terminal
from flashq.errors import (
    BrokerError,
    FlashqError,
    IdempotencyConflict,
    JobError,
    QueueFull,
    UnsupportedCall,
    WaitTimeout,
)
from flashq.model.visible import visible_lines, visible_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flashq.settings import Settings
    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.store.transitions import Transitions

_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)

# -- call --------------------------------------------------------------------------------------------


@click.command(
    epilog=example(
        """flashq call embed '["one text", "another"]'""",
        """flashq call resize '"cat.png"' width=640 --detach""",
        """jq .texts input.json | flashq call embed -""",
        """flashq call invoice 17 --key invoice-17""",
    )
    + exit_codes(Exit.NOT_FOUND, Exit.REFUSED, Exit.JOB_FAILED)
)
@click.argument("endpoint")
@click.argument("values", nargs=-1, metavar="[JSON | NAME=JSON | -]...")
@click.option("--detach", is_flag=True, help="Print the job's id and do not wait.")
@click.option(
    "--key", metavar="TEXT", default="", help="Idempotency key: a second call with it is the first job."
)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this.")
def call(endpoint: str, values: tuple[str, ...], detach: bool, key: str, timeout: float | None) -> None:
    """Call an endpoint's current revision and print its result as JSON.

    Each argument is a JSON value ("text" in its quotes: '"text"'); NAME=JSON gives one by name; - reads one
    from stdin. The job goes on when the wait for it ends.
    """
    from flashq import json_call

    args, kwargs = _arguments(values)
    settings = load_settings()
    with connected(settings) as broker:
        broker.durability = settings.durability
        keys = keyring(settings)
        limit = settings.payload_limit
        try:
            made = json_call.submit(broker, keys, endpoint, args, kwargs, payload_limit=limit, key=key)
        except (QueueFull, IdempotencyConflict, UnsupportedCall) as error:
            raise Stop(str(error), Exit.REFUSED) from error
        if detach:
            click.echo(made.job)
            return
        try:
            result = json_call.wait(broker, keys, made, timeout)
        except WaitTimeout as error:
            raise Stop(f"{error}: `flashq job {made.job}` tells how it stands", Exit.ERROR) from error
        except KeyboardInterrupt:
            complain(f"job {made.job} goes on: `flashq cancel {made.job}` stops it")
            raise
        except JobError as error:
            trace = getattr(error, "traceback", "")
            raise Stop(f"{error}\n{trace}".rstrip(), Exit.JOB_FAILED) from error
    if on_terminal():
        click.echo(visible_lines(json.dumps(result, indent=2, ensure_ascii=False)))
    else:
        click.echo(json.dumps(result))


def _arguments(values: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for value in values:
        named = _NAMED.fullmatch(value)
        if named is None:
            args.append(_value(value))
        elif named[1] in kwargs:
            raise click.UsageError(f"{named[1]} is given twice")
        else:
            kwargs[named[1]] = _value(named[2])
    return args, kwargs


def _value(text: str) -> Any:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    written = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(written, parse_constant=refuse)
    except ValueError as error:
        hint = f"""; as a text it is written '{json.dumps(text)}'""" if text != "-" else ""
        raise click.UsageError(f"not a JSON value: {text!r} ({error}){hint}") from None


# -- cancel, retry -----------------------------------------------------------------------------------


@click.command(
    epilog=example("flashq cancel embed-5f0c…") + exit_codes(Exit.NOT_FOUND, Exit.REFUSED),
)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB...")
def cancel(job_ids: tuple[str, ...]) -> None:
    """Cancel jobs: a waiting one ends now, a running one is stopped by its worker."""
    said = {"cancelled": "cancelled", "requested": "its worker was asked to stop it"}
    _on_each(job_ids, lambda transitions, job: transitions.cancel(job), said, "it has ended already")


@click.command(
    epilog=example(
        "flashq retry embed-0190…",
        "flashq retry --endpoint embed",
        "flashq retry --endpoint embed --reason lost",
    )
    + exit_codes(Exit.NOT_FOUND, Exit.REFUSED),
)
@click.argument("job_ids", nargs=-1, metavar="[JOB]...")
@click.option("--endpoint", metavar="NAME", help="Every job of this endpoint that failed or timed out.")
@click.option(
    "--reason", metavar="WORD", help="With --endpoint: only those of this reason (see `jobs --dead`)."
)
def retry(job_ids: tuple[str, ...], endpoint: str | None, reason: str | None) -> None:
    """Begin jobs anew that failed, timed out or were cancelled, with their budgets full again."""
    if bool(job_ids) == bool(endpoint):
        raise click.UsageError("name jobs, or with --endpoint all that failed of an endpoint")
    if reason is not None and endpoint is None:
        raise click.UsageError("--reason chooses among the jobs of an --endpoint")
    if endpoint is not None:
        from flashq.store import failed

        with connected() as broker:
            count = failed.requeue(broker, endpoint, reason=reason or "")
        click.echo(f"{endpoint}: {counted(count, 'failed job')} queued again")
        return
    why = "only a job that failed, timed out or was cancelled can be retried"
    _on_each(job_ids, lambda transitions, job: transitions.requeue(job), {"ok": "queued again"}, why)


def _on_each(
    job_ids: tuple[str, ...],
    command: Callable[[Transitions, str], Command[str]],
    said: dict[str, str],
    refused: str,
) -> None:
    """Carry out a command for each job; the exit code is the highest any of them asks for."""
    from flashq.store.queries import absent

    worst = Exit.OK
    with connected() as broker:
        for job in job_ids:
            verdict = broker.run(command(broker.transitions, job))
            if verdict in said:
                click.echo(f"{job}: {said[verdict]}")
            elif verdict == "unknown":
                complain(str(absent(broker, job)))
                worst = max(worst, Exit.NOT_FOUND)
            else:
                complain(f"{job} is {verdict}: {refused}")
                worst = max(worst, Exit.REFUSED)
    if worst:
        sys.exit(worst)


# -- logs --------------------------------------------------------------------------------------------


@click.command(
    epilog=example("flashq logs embed-5f0c…", "flashq logs --follow embed-5f0c…") + exit_codes(Exit.NOT_FOUND)
)
@click.argument("target", metavar="JOB|WORKER")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job or the worker ends.")
def logs(target: str, follow: bool) -> None:
    """Print what a job printed, or the log of a worker that ran or runs on this machine."""
    if not _ID.fullmatch(target):
        raise Stop(f"no job or worker {target}", Exit.NOT_FOUND)
    settings = load_settings()
    file = settings.home / "logs" / f"{target}.log"
    if file.is_file():
        _print(_worker_log(settings, target, file, follow))
        return
    from flashq.store.queries import job_logs

    with connected(settings) as broker:
        _refuse_distant_worker(broker, target, file)
        if follow:
            _tell_wait(broker, target)
        _print(job_logs(broker, target, follow=follow))


def _tell_wait(broker: Broker, job: str) -> None:
    """Why there is nothing to be seen yet, where the job waits."""
    from flashq.store.queries_why import why

    with contextlib.suppress(FlashqError):  # the logs of one that is gone may be there still
        found = why(broker, job)
        if found.waits:
            click.echo(f"flashq: {job} waits: {visible_lines(found.detail)} {found.advice}", err=True)


def _print(lines: Iterator[str]) -> None:
    shown = visible_output if on_terminal() else str
    for line in lines:
        click.echo(shown(line))
        sys.stdout.flush()


def _refuse_distant_worker(broker: Broker, target: str, file: Path) -> None:
    host = broker.execute("HGET", broker.keys.of("worker", target), "hostname")
    if host is not None:
        where = visible_lines(host.decode("utf-8", "replace"))
        raise Stop(f"worker {target} runs on {where}: its log is there, here is no {file}", Exit.NOT_FOUND)


def _worker_log(settings: Settings, worker: str, file: Path, follow: bool) -> Iterator[str]:
    """The lines of the file; with `follow` also those to come, until the worker has ended."""
    with file.open("rb") as stream:
        rest = b""
        while True:
            ended = not follow or not _lives(settings, worker)
            if os.fstat(stream.fileno()).st_size < stream.tell():
                stream.seek(0)  # its host emptied it, because it had grown too long
            while piece := stream.readline():
                rest += piece
                if rest.endswith(b"\n"):
                    yield rest[:-1].decode("utf-8", "replace")
                    rest = b""
            if ended:
                break
            time.sleep(0.5)
    if rest:
        yield rest.decode("utf-8", "replace")


def _lives(settings: Settings, worker: str) -> bool:
    """Whether the worker is on record and has not ended; without a broker it has."""
    from flashq.store.broker import Broker

    try:
        broker = Broker(broker_url(settings), prefix=settings.rq_prefix, patience_s=1.0)
        birth, death = broker.execute("HMGET", broker.keys.of("worker", worker), "birth", "death")
    except BrokerError:
        return False
    broker.close()
    return birth is not None and death is None
