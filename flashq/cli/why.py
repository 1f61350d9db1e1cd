"""`flashq why`: the one reason why a job stands where it stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from flashq.cli import example
from flashq.cli.connection import Exit, connected, exit_codes
from flashq.cli.render import as_json_text, entries
from flashq.store import queries_why


@dataclass(frozen=True, slots=True)
class _Said:
    job: str
    cause: str
    why: str
    what_to_do: str


@click.command(
    epilog=example("flashq why embed-5f0c…", "flashq why embed-5f0c… --json | jq -r '.[0].cause'")
    + exit_codes(Exit.NOT_FOUND)
)
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
def why(job_id: str, as_json: bool) -> None:
    """Say why a job waits, runs or failed: one cause, and what to do about it.

    CAUSE is one word of a closed list: docs/reference/states.md has all of them.
    """
    with connected() as broker:
        found = queries_why.why(broker, job_id)
    said = _Said(job_id, found.cause.value, found.detail, found.advice)
    if as_json:
        click.echo(as_json_text([said]))
        return
    for line in entries(asdict(said)):
        click.echo(line)
