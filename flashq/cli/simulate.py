"""`flashq simulate`: what the scaling rules come to on a trace of arrivals."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import Exit, Stop, counted, exit_codes
from flashq.cli.render import show
from flashq.errors import FlashqError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POLICIES = (
    "EARLIEST_FINISH",
    "REQUEST_COUNT",
    "QUEUE_DELAY",
    "KEDA",
    "KPA",
    "SHIPPED_REQUEST_COUNT",
    "SHIPPED_QUEUE_DELAY",
    "OPT0",
    "CONTRACT_OPT",
)
"""Those of `flashq_autoscaler.simulate.report` (a test says so), here so that help needs no autoscaler."""


@click.command(
    epilog=example(
        "flashq simulate examples/traces/azure_llm_code_10min.csv --cold 20 --idle-timeout 60 --max 64",
        "flashq simulate trace.csv --policy EARLIEST_FINISH --policy KEDA --json",
        "flashq simulate trace.csv --plot workers.svg",
        "flashq simulate --replay ~/.local/share/flashq/logs/decisions.jsonl",
    )
    + exit_codes(Exit.REFUSED)
)
@click.argument("trace", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--cold",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="From a worker's order until it is ready.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long idle workers stay, where the rule asks.",
)
@click.option(
    "--max",
    "maximum",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Workers at most.",
)
@click.option(
    "--min",
    "minimum",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Workers at least.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Of EARLIEST_FINISH: cold starts a job may wait rather than start a worker.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(["all", *_POLICIES], case_sensitive=False),
    help="Which rules (repeatable); all unless given.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.svg",
    help="Draw workers over time (needs the extra `plot`).",
)
@click.option(
    "--replay",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Instead: decide again what an autoscaler recorded, and say what differs (exit code 4).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
def simulate(
    trace: Path,
    cold: float,
    idle_timeout: float,
    maximum: int,
    minimum: int,
    alpha: float,
    policies: Sequence[str],
    plot: Path | None,
    replay: Path | None,
    as_json: bool,
) -> None:
    """Run a TRACE of arrivals through the shipped scaling rule, other systems' rules, and bounds that know it all.

    TRACE is a CSV file with the columns arrival and service, in seconds, or one of the Azure LLM inference traces.
    Nothing is started: one endpoint, workers that run a job at a time, hosts without limits.

    An autoscaler records each decision that asks for something, with all that it saw, in decisions.jsonl under
    FLASHQ_HOME/logs.
    """
    if (trace is None) == (replay is None):
        raise click.UsageError("give a TRACE, or --replay FILE")
    if replay is not None:
        _replay(replay, as_json=as_json)
        return
    assert trace is not None
    if minimum > maximum:
        raise click.UsageError(f"--min {minimum} is above --max {maximum}")
    chart = None if plot is None else _chart()  # before the work, not after
    reader = importlib.import_module("flashq_autoscaler.simulate.trace")
    report = importlib.import_module("flashq_autoscaler.simulate.report")
    names = list(dict.fromkeys(policies)) or ["all"]
    if "all" in names:
        names = list(_POLICIES)
    terms = report.Terms(
        cold_s=cold, idle_timeout_s=idle_timeout, maximum=maximum, minimum=minimum, alpha=alpha
    )
    rows, runs = report.rows(reader.read(trace), names, terms)
    if plot is not None:
        _draw(chart, runs, plot)
    columns = [
        "policy",
        "p50_wait_s",
        "p99_wait_s",
        "gpu_s",
        "gpu_per_work",
        "starts",
        "useless_starts",
        "peak_workers",
    ]
    show(rows, as_json=as_json, columns=columns, none="no policy")


def _replay(file: Path, *, as_json: bool) -> None:
    rows = list(importlib.import_module("flashq_autoscaler.simulate.replay").replay(file))
    different = [row for row in rows if row.differs]
    all_of_them = counted(len(rows), "decision")
    columns = ["number", "at", "starts", "drains", "stops", "differs"]
    none = f"{all_of_them}, all the same today"
    show(rows if as_json else different, as_json=as_json, columns=columns, none=none)
    if different:
        raise Stop(f"{len(different)} of {all_of_them} would be others today", Exit.REFUSED)


def _chart() -> Any:
    try:
        return importlib.import_module("pygal")
    except ImportError:
        raise FlashqError("--plot needs pygal: install flashq's extra `plot`, or pygal itself") from None


def _draw(pygal: Any, runs: Mapping[str, Any], file: Path) -> None:
    chart = pygal.XY(
        show_dots=False, title="Live workers", x_title="seconds", y_title="workers", width=1200, height=600
    )
    for name, run in runs.items():
        chart.add(name, _steps(run.history))
    try:
        chart.render_to_file(str(file))
    except OSError as error:
        raise FlashqError(f"{file}: {error.strerror}") from None


def _steps(history: Sequence[tuple[float, int, int]]) -> list[tuple[float, int]]:
    """The corners of a line that changes in steps."""
    corners: list[tuple[float, int]] = []
    last = 0
    for at, workers, _ in history:
        if workers != last or not corners:
            corners += [(at, last), (at, workers)]
            last = workers
    return [*corners, (history[-1][0], last)] if history else []
