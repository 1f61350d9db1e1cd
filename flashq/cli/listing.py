"""Commands that look: endpoints, queues, jobs, one job, workers, hosts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.connection import Exit, connected, exit_codes, keyring, load_settings
from flashq.cli.render import as_json_text, entries, show
from flashq.errors import FlashqError
from flashq.model.lifecycle import Status
from flashq.model.outcome import FailureKind
from flashq.store import failed, queries_jobs, queries_queues
from flashq.store import queries_fleet as fleet
from flashq.store.queries import moment

if TYPE_CHECKING:
    from flashq.settings import Settings
    from flashq.store.broker import Broker

_REASONS = [kind.value for kind in FailureKind if kind is not FailureKind.CANCELLED]
_HEADLINE = 100  # characters of an error in a table
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")


@click.command(epilog=example("flashq queues", "flashq queues --json | jq '.[].queued'") + exit_codes())
@_JSON
def queues(as_json: bool) -> None:
    """List what waits, by endpoint; jobs of other priorities and revisions are counted with it.

    PARKED counts what somebody else put on the queue: it is no flashq job, is kept, and will not run.
    """
    with connected() as broker:
        rows = queries_queues.queues(broker)
    columns = ["endpoint", "queued", "in_progress", "failed", "oldest_age_s", "scheduled", "parked"]
    if any(row.paused for row in rows):
        columns.append("paused")
    show(
        rows, as_json=as_json, columns=columns, none="no queues: no endpoint has been called or deployed yet"
    )


@click.command(
    epilog=example(
        "flashq jobs",
        "flashq jobs --endpoint embed --status completed --json",
        "flashq jobs --dead --endpoint embed --reason lost",
    )
    + exit_codes(Exit.NOT_FOUND)
)
@click.option("--endpoint", metavar="NAME", help="Only jobs of this endpoint.")
@click.option("--status", type=click.Choice([s.value for s in Status], case_sensitive=False))
@click.option("--dead", is_flag=True, help="Only those that failed or timed out for good, with the reason.")
@click.option(
    "--reason", type=click.Choice(_REASONS), metavar="WORD", help="With --dead: only those of this reason."
)
@click.option("--limit", type=click.IntRange(1, queries_jobs.REACH), default=50, show_default=True)
@_JSON
def jobs(
    endpoint: str | None, status: str | None, dead: bool, reason: str | None, limit: int, as_json: bool
) -> None:
    """List jobs: those in progress, then those waiting, then those that ended, newest first.

    REASON is one word: exception, unserializable, crash, lost, lost_once, timeout, expired, refused or start.
    """
    if dead and status is not None:
        raise click.UsageError("--dead and --status exclude each other")
    if reason is not None and not dead:
        raise click.UsageError("--reason chooses among those that --dead lists")
    if dead:
        _dead(endpoint, reason, limit, as_json)
        return
    wanted = None if status is None else Status(status)
    with connected() as broker:
        rows = queries_jobs.jobs(broker, endpoint=endpoint, status=wanted, limit=limit)
        now = moment(fleet.now_ms(broker))
    columns = ["id", "status", "attempts", "enqueued_at", "started_at", "ended_at", "worker", "cold_start"]
    show(rows, as_json=as_json, columns=columns, now=now, none="no jobs")


def _dead(endpoint: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    with connected() as broker:
        rows = failed.listed(broker, endpoint, reason=reason, limit=limit)
        now = moment(fleet.now_ms(broker))
    columns = ["id", "reason", "attempts", "losses", "ended_at", "error"]
    people = [replace(row, error=_headline(row.error)) for row in rows]
    show(rows, as_json=as_json, columns=columns, now=now, none="no dead jobs", people=people)


def _headline(error: str) -> str:
    first = error.partition("\n")[0]
    return first if len(first) <= _HEADLINE else first[: _HEADLINE - 1] + "…"


@click.command(epilog=example("flashq workers", "flashq workers --json") + exit_codes())
@_JSON
def workers(as_json: bool) -> None:
    """List workers: their state, where they run, and which job they have."""
    with connected() as broker:
        rows = fleet.workers(broker)
        now = moment(fleet.now_ms(broker))
    columns = ["id", "endpoint", "state", "host", "pid", "since", "job"]
    if any(row.draining for row in rows):
        columns.append("draining")
    if any(row.reason for row in rows):
        columns.append("reason")
    show(rows, as_json=as_json, columns=columns, now=now, none="no workers")


# -- one job -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _JobWithTraceback(queries_jobs.JobDetail):
    """A job, with what its verified outcome says beside."""

    traceback: str | None


@click.command(
    epilog=example("flashq job embed-5f0c…", "flashq job embed-5f0c… --json") + exit_codes(Exit.NOT_FOUND)
)
@click.argument("job_id", metavar="JOB")
@_JSON
def job(job_id: str, as_json: bool) -> None:
    """Show everything about one job: where its time went, how it ended, what it printed last."""
    settings = load_settings()
    with connected(settings) as broker:
        found = queries_jobs.job(broker, job_id)
        values = {f.name: getattr(found, f.name) for f in fields(found)}
        row = _JobWithTraceback(**values, traceback=_traceback(settings, broker, found))
    if as_json:
        click.echo(as_json_text([row]))
        return
    values = asdict(row)
    timing, log = values.pop("timing"), values.pop("log")
    values |= {**timing, "log": "\n".join(log)}
    for line in entries(values):
        click.echo(line)


def _traceback(settings: Settings, broker: Broker, found: queries_jobs.JobDetail) -> str | None:
    """The traceback in its outcome, if it failed and our keys verify it; nothing is unpickled."""
    from flashq import codec

    raw = queries_jobs.stored_outcome(broker, found.id)
    if found.status in (Status.COMPLETED, Status.IN_QUEUE, Status.IN_PROGRESS) or not raw:
        return None
    try:
        keys = keyring(settings)
        opened = codec.open_outcome(raw, keys, endpoint=found.endpoint, job=found.id, call_digest="")
        return codec.failure_of(opened).traceback or None
    except FlashqError as error:  # no key, or not a true outcome: said in its place
        return f"(not shown: {error})"
