"""The command `verify`: faults by the dozen against the broker in use, and a table of what they cost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import Exit, exit_codes, explained, load_settings
from flashq.cli.render import on_terminal
from flashq.model.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flashq.verify.check import Verdict
    from flashq.verify.verification import BrokerKind, Verification

_SEEDS = 1_000_000
_SHOWN = 20
_ROWS = ("lost", "stale", "changed")
"""The violations that have a line of their own though there are none."""


@click.command(
    epilog=example("flashq verify", "flashq verify --faults 200 --seed 7", "flashq verify --json")
    + exit_codes(Exit.BROKEN)
)
@click.option(
    "--faults", type=click.IntRange(min=1), default=80, show_default=True, help="How many faults happen."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="S",
    help="Which faults happen when; by default another one each time.",
)
@click.option(
    "--jobs", type=click.IntRange(min=20), default=600, show_default=True, help="How many calls are made."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(faults: int, seed: int | None, jobs: int, as_json: bool) -> int:
    """Show that nothing is lost while things break, on the broker in use.

    Calls are made while callers, workers, host agents and autoscalers are killed, stopped and cut off. They are this
    command's own, under a key prefix of their own, which is removed afterwards; the broker itself is not harmed.
    Where none is configured, a private one is started for this run, and killed too. It takes about a minute.
    """
    from flashq.verify.verification import verify as run

    signal.signal(signal.SIGTERM, _interrupt)
    seed = random.randrange(_SEEDS) if seed is None else seed  # noqa: S311 — it is shown, and guards nothing
    with explained(), _folder() as folder, _bar(faults) as advance:
        done = run(load_settings(), folder, seed=seed, faults=faults, calls=jobs, progress=advance)
        if done.verdict.holds:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(json.dumps(as_object(done), indent=2)) if as_json else _show(done)
    if done.verdict.holds:
        return Exit.OK
    click.echo(f"flashq: not all that was promised was kept; what happened is in {folder}", err=True)
    return Exit.BROKEN


def _interrupt(*_: object) -> None:
    """SIGTERM, like Ctrl-C: what was put into the broker is removed first."""
    raise KeyboardInterrupt


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets; it stays where the run did not come to its end."""
    folder = Path(tempfile.mkdtemp(prefix="fqv-"))
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _bar(faults: int) -> Iterator[Callable[[int], None]]:
    """Progress on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from flashq.progress import progress_bar

    with progress_bar("faults", faults) as advance:
        yield lambda _done: advance()


# -- what it amounts to ------------------------------------------------------------------------------


def as_object(done: Verification) -> dict[str, Any]:
    """All of it, for JSON."""
    verdict = done.verdict
    return {
        "holds": verdict.holds,
        "seed": done.seed,
        "broker": asdict(done.broker),
        "faults": [
            {"kind": kind, "count": count, "hits": hits} for kind, (count, hits) in verdict.faults.items()
        ],
        **numbers(verdict),
        "violations": [violation._asdict() for violation in verdict.violations],
    }


def numbers(verdict: Verdict) -> dict[str, Any]:
    """What was counted, and the violations that everybody asks for."""
    return {
        "jobs": verdict.jobs,
        "attempts": verdict.attempts,
        "repeated": verdict.extra_runs,
        "repeated_unexplained": verdict.unexplained,
        "failed_unexplained": verdict.failed_unexplained,
        "hits": verdict.hits,
        "submits_refused": verdict.refused,
        "faults_missed": verdict.missed,
        **{kind: verdict.count(kind) for kind in _ROWS},
        "settled_s": None if verdict.settled_s is None else round(verdict.settled_s, 1),
    }


def _show(done: Verification) -> None:
    verdict = done.verdict
    rows = [(kind, str(count), str(hits)) for kind, (count, hits) in verdict.faults.items()]
    rows.append(("all", str(sum(count for count, _ in verdict.faults.values())), str(verdict.hits)))
    summary = [(name.replace("_", " "), _plain(value)) for name, value in numbers(verdict).items()]
    told = [("seed", str(done.seed)), ("broker", _in_words(done.broker)), *summary]
    if on_terminal():
        _print_tables(rows, told)
    else:
        for row in (("fault", "times", "hits"), *rows, *told):
            click.echo("\t".join(row))
    for violation in verdict.violations[:_SHOWN]:
        click.echo(f"{violation.kind}: {visible(violation.subject)}: {visible(violation.text)}")
    if (more := len(verdict.violations) - _SHOWN) > 0:
        click.echo(f"… and {more} more")


def _print_tables(rows: Sequence[tuple[str, ...]], told: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    faults = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    faults.add_column("FAULT")
    faults.add_column("TIMES", justify="right")
    faults.add_column("JOBS HIT", justify="right")
    for row in rows:
        faults.add_row(*row)
    summary = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for name, value in told:
        bad = name in _ROWS and value != "0"
        summary.add_row(name, value, style="red" if bad else "green" if name in _ROWS else "")
    console = Console()
    console.print(faults)
    console.print()
    console.print(summary)


def _plain(value: object) -> str:
    return "not all" if value is None else str(value)


def _in_words(broker: BrokerKind) -> str:
    kept = "append-only file on" if broker.append_only else "append-only file off: a restart loses everything"
    whose = "private" if broker.private else "configured"
    return f"{broker.server}, {whose}, {kept}, {broker.eviction}"
