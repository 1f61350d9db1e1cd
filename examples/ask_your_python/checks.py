"""What the demo must have shown: pure judgements on what was seen, each with its name and its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search import cosine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Questions in words, and what the standard library has for each.
QUESTIONS = {
    "temporary folder that deletes itself": "tempfile.TemporaryDirectory",
    "copy a whole directory tree to another place": "shutil.copytree",
    "delete a directory and everything in it": "shutil.rmtree",
    "split a command line the way a shell does": "shlex.split",
    "the largest n elements of an iterable": "heapq.nlargest",
    "is this year a leap year": "calendar.isleap",
    "open a web page in the browser": "webbrowser.open",
    "random token safe to put in a URL": "secrets.token_urlsafe",
    "fold long text into lines of a given width": "textwrap.wrap",
    "square root of a number": "math.sqrt",
    "greatest common divisor": "math.gcd",
    "escape characters special in HTML": "html.escape",
    "hex string that is safe as a password reset token": "secrets.token_hex",
    "free space left on the disk": "shutil.disk_usage",
}

# Above this cosine two vectors count as the same: padding changes the order of additions, so the last digits.
SAME = 0.999


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold, whether it did, and the evidence."""

    name: str
    held: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs of this run the broker says have completed, have ended otherwise, and have not ended."""

    completed: int
    failed: int
    unfinished: int


def all_accounted_for(docstrings: int, vectors: int, submitted: int, counts: Counts) -> Check:
    """Every docstring has its vector, and the broker counts every job of the run as completed."""
    held = vectors == docstrings and counts == Counts(completed=submitted, failed=0, unfinished=0)
    return Check(
        "every docstring is accounted for",
        held,
        f"{vectors:,} vectors for {docstrings:,} docstrings; of {submitted} jobs the broker counts "
        f"{counts.completed} completed, {counts.failed} failed, {counts.unfinished} unfinished",
    )


def sample_agrees(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Check:
    """A sample of vectors is what a plain process computes for the same texts."""
    cosines = [cosine(one, other) for one, other in zip(ours, theirs, strict=True)]
    lowest = min(cosines, default=0.0)
    return Check(
        "vectors equal those of a plain process",
        lowest > SAME,
        f"lowest cosine of {len(cosines)} is {lowest:.6f}",
    )


def questions_answered(answers: Mapping[str, Sequence[str]]) -> Check:
    """The pinned answer to each pinned question is among the names found for it."""
    missed = [
        f"{question!r} → {pinned}"
        for question, pinned in QUESTIONS.items()
        if pinned not in answers.get(question, ())
    ]
    found = len(QUESTIONS) - len(missed)
    evidence = f"{found} of {len(QUESTIONS)} pinned answers in the top five"
    return Check("questions find their answers", not missed, "; ".join([evidence, *missed]))


def answers_were_warm(cold: int, asked: int) -> Check:
    """No question had to wait for a worker to start."""
    return Check("questions meet a warm worker", cold == 0, f"{asked - cold} of {asked} met one")


def peak_reached(peak: int, most: int) -> Check:
    """The load brought as many workers as the endpoint allows, and no more."""
    return Check(f"{most} workers at the peak", peak == most, f"{peak} seen")


def none_left(workers: int) -> Check:
    """Idleness took every worker away."""
    return Check("no worker is left", workers == 0, f"{workers} left")
