"""Ask your Python: search the standard library's docstrings by meaning, with workers that come and go.

A real model (MiniLM, in a wheel) embeds every public docstring, on workers that start because of the first
call: from none to two while there is work. Then a warm worker answers questions in milliseconds, and then
idleness takes the workers away. With nothing configured, all of it happens on this machine; with
FLASHQ_REDIS_URL set, on your hosts. The run checks itself and says by name what did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import checks
import embedding
import observe
import report
from docstrings import Docstring, collect
from rich.console import Console
from search import Index, batches, spread
from view import Watch, sparkline, timeline

from flashq import Endpoint, EndpointFunction, FlashqError, GpuGroup

NAME = "ask-your-python"
IDLE_S = 8
IDLE_WHEN_TYPING_S = 60  # people think between questions
BATCH = 16  # larger ones outgrow the cache and are slower
FEWEST_BATCHES = 40  # so that two workers have something to share when there is little
SAMPLE = 8
PATIENCE_S = 30

Embed = EndpointFunction[[list[str]], list[list[float]]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    limit: int | None
    gpu: bool
    workers: int
    interactive: bool

    @property
    def idle_s(self) -> int:
        """How long a worker stays without work."""
        return IDLE_WHEN_TYPING_S if self.interactive else IDLE_S


def main() -> int:
    """Run the demo; return 0 where everything held, 1 where something did not."""
    options = parse(sys.argv[1:])
    try:
        return run(options, endpoint(options))
    except FlashqError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def parse(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, metavar="N", help="embed only N docstrings, evenly spread")
    parser.add_argument("--gpu", action="store_true", help="ask for workers with a GPU; the code is the same")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="at most so many workers (2)")
    parser.add_argument("--interactive", action="store_true", help="then answer your own questions, too")
    return Options(**vars(parser.parse_args(arguments)))


def endpoint(options: Options) -> Embed:
    """Make the function an endpoint. Nothing starts before its first call."""
    on = {"gpu": GpuGroup.ANY} if options.gpu else {"cpu": "any"}
    make = Endpoint(
        name=NAME,
        **on,
        workers=(0, options.workers),
        idle_timeout=options.idle_s,
        dependencies=embedding.GPU_REQUIREMENTS if options.gpu else embedding.REQUIREMENTS,
    )
    return make(embedding.embed)


def run(options: Options, embed: Embed) -> int:
    """Embed, ask, wait for idleness, judge."""
    began = time.monotonic()
    docstrings = choose(collect(), options.limit)
    print(f"{len(docstrings):,} docstrings, found in {time.monotonic() - began:.1f} s.", flush=True)
    texts = [f"{docstring.name}: {docstring.text}" for docstring in docstrings]
    sample = spread(len(texts), SAMPLE)

    with Watch(partial(observe.look, NAME), len(texts), Console()) as watch:
        vectors, first, jobs = embed_all(embed, texts, watch)
        index = Index(zip((docstring.name for docstring in docstrings), vectors, strict=True))
        answers, cold = ask_pinned(embed, index, watch)
        jobs += len(answers) + (converse(embed, index) if options.interactive else 0)
        counted = observe.count(NAME, first)
        theirs = reference([texts[position] for position in sample])
        print(f"\nWaiting for {options.idle_s} s of idleness to take the workers away.", flush=True)
        watch.wait_for(lambda moment: moment.seen.alive == 0, options.idle_s + PATIENCE_S)
    print_timeline(watch)
    return judge(
        [
            checks.all_accounted_for(len(docstrings), len(vectors), jobs, counted),
            checks.sample_agrees([vectors[position] for position in sample], theirs),
            checks.questions_answered(answers),
            checks.answers_were_warm(cold, len(answers)),
            checks.peak_reached(watch.peak, options.workers),
            checks.none_left(watch.moments[-1].seen.alive),
        ]
    )


def choose(docstrings: list[Docstring], limit: int | None) -> list[Docstring]:
    """Return `limit` docstrings, evenly spread, among them the answers to the pinned questions; or all."""
    if limit is None or limit >= len(docstrings):
        return docstrings
    pinned = set(checks.QUESTIONS.values())
    others = [position for position, docstring in enumerate(docstrings) if docstring.name not in pinned]
    taken = {others[position] for position in spread(len(others), max(0, limit - len(pinned)))}
    return [each for position, each in enumerate(docstrings) if position in taken or each.name in pinned]


def embed_all(embed: Embed, texts: list[str], watch: Watch) -> tuple[list[list[float]], str, int]:
    """Return the texts' vectors, in their order, the id of the first job, and how many jobs there were."""
    vectors: list[list[float]] = [[] for _ in texts]

    def keep(positions: list[int], found: list[list[float]]) -> None:
        for position, vector in zip(positions, found, strict=True):
            vectors[position] = vector
        watch.done += len(positions)

    first, *others = batches(texts, max(1, min(BATCH, len(texts) // FEWEST_BATCHES)))
    watch.note("first call")
    # The first job by itself, since its times are shown below; it and the others wait side by side.
    job = embed.spawn([texts[position] for position in first])
    results = embed.map([[texts[position] for position in batch] for batch in others], progress=False)
    for batch, result in zip(others, results, strict=True):
        keep(batch, result)
    keep(first, job.result(PATIENCE_S))
    watch.note("last docstring embedded")
    watch.end_live()
    took_s = watch.notes[-1][0] - watch.notes[0][0]
    print(f"\n{len(texts):,} docstrings embedded in {took_s:.1f} s by {watch.peak} workers.")
    print(*report.cold_start(job.timing), sep="\n")
    print(*(f"  {line}" for line in job.logs()), sep="\n", flush=True)
    return vectors, job.id, 1 + len(others)


def ask_pinned(embed: Embed, index: Index, watch: Watch) -> tuple[dict[str, list[str]], int]:
    """Ask the pinned questions; return the names found for each, and how many met no idle worker."""
    answers: dict[str, list[str]] = {}
    latencies_s: list[float] = []
    cold = 0
    print("\nQuestions:")
    for question in checks.QUESTIONS:
        began = time.monotonic()
        job = embed.spawn([question])
        (vector,) = job.result(PATIENCE_S)
        latencies_s.append(time.monotonic() - began)
        cold += bool(job.cold_start)
        found = index.nearest(vector)
        answers[question] = [name for name, _ in found]
        print(report.answer(question, found[:3], latencies_s[-1]), flush=True)
    print(report.warm_latency(latencies_s), flush=True)
    watch.note("questions answered")
    return answers, cold


def converse(embed: Embed, index: Index) -> int:
    """Answer questions from the keyboard until an empty line; return how many there were."""
    print("\nYour questions (an empty line ends):")
    asked = 0
    with contextlib.suppress(EOFError):  # Ctrl-D ends, too
        while line := input("? ").strip():
            began = time.monotonic()
            (vector,) = embed.remote([line])
            print(report.answer(line, index.nearest(vector), time.monotonic() - began))
            asked += 1
    return asked


def reference(texts: list[str]) -> list[list[float]]:
    """Return the texts' vectors as a plain process computes them, in an environment that uv makes for it."""
    script = Path(__file__).with_name("reference.py")
    requirements = [word for each in embedding.REQUIREMENTS for word in ("--with", each)]
    uv = [
        sys.executable,
        "-m",
        "uv",
        "run",
        "--no-project",
        "--isolated",
        "--quiet",
        "--python",
        sys.executable,
    ]
    command = [*uv, *requirements, "python", str(script)]
    done = subprocess.run(command, input=json.dumps(texts), check=True, stdout=subprocess.PIPE, text=True)
    vectors: list[list[float]] = json.loads(done.stdout)
    return vectors


def print_timeline(watch: Watch) -> None:
    """Print what happened when, and the whole run as two rows of bars."""
    print("\nTimeline:")
    print(*timeline(watch.moments, watch.notes), sep="\n")
    print(f"  queue    {sparkline([moment.seen.queued for moment in watch.moments], 60)}")
    print(f"  workers  {sparkline([moment.seen.alive for moment in watch.moments], 60)}")


def judge(judged: list[checks.Check]) -> int:
    """Print the checks; return 0 where all held, else 1 with the names of those that did not."""
    print("\nChecks:")
    print(*(report.check(check) for check in judged), sep="\n")
    failed = [check.name for check in judged if not check.held]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
