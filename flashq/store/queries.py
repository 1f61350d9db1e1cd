"""What people ask the broker: one job's times and output. Reads only.

Nothing here walks the key space: every question starts from a key that is known and reads a bounded number of
others. What is unknown is None, never 0; a broker that cannot be reached is an error, never an empty answer.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any

from flashq.errors import JobNotFound
from flashq.model.lifecycle import TERMINAL, WAITING, JobState
from flashq.store.broker import Broker
from flashq.store.command import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOG_PAGE = 200  # entries of a log read at once
_LOG_BLOCK_MS = 500  # how long a follower waits for output before it looks whether the job has ended
_LONGEST_LINE = 64 * 1024

# -- one job -----------------------------------------------------------------------------------------

_TIMING = ("fq_state", "fq_enqueued", "fq_claimed", "fq_began", "fq_ended", "fq_attempts", "fq_timing")


def job_timing(broker: Broker, job_id: str) -> dict[str, Any]:
    """Where a job's time went: the fields of `flashq.job.Timing` (seconds; None: not reached, or not known).

    Raises: JobNotFound, BrokerError.
    """
    values = broker.execute("HMGET", broker.keys.of("job", job_id), *_TIMING)
    return timing_of(dict(zip(_TIMING, (text(v) for v in values), strict=True)), job_id)


def timing_of(fields: dict[str, str], job_id: str) -> dict[str, Any]:
    """`job_timing` from a job's hash. Raises JobNotFound where it is no job of ours."""
    state = _state(fields, job_id)
    enqueued, ended = milliseconds(fields.get("fq_enqueued")), milliseconds(fields.get("fq_ended"))
    # A job that went back to its queue keeps the times of its earlier delivery; they say nothing of this one.
    claimed = None if state in WAITING else milliseconds(fields.get("fq_claimed"))
    began = milliseconds(fields.get("fq_began"))
    if claimed is None or (began is not None and began < claimed):
        began = None
    report = _report(fields.get("fq_timing", "")) if state in TERMINAL else {}
    startup = report.get("startup_ms") or {}
    return {
        "queued_s": _between(enqueued, claimed),
        "claimed_s": _between(claimed, began),
        "execution_s": _seconds(report.get("execution_ms")),
        "total_s": _between(enqueued, ended),
        "attempts": milliseconds(fields.get("fq_attempts")) or 0,
        "startup": {part: spent / 1000 for part, spent in startup.items() if isinstance(spent, int | float)},
    }


def _state(fields: dict[str, str], job_id: str) -> JobState:
    try:
        return JobState(fields.get("fq_state", ""))
    except ValueError:
        why = f"no job {job_id} in the broker: never there, deleted, or expired"
        raise JobNotFound(why, job_id=job_id) from None


def milliseconds(value: str | None) -> int | None:
    """A number as a hash holds it; None where there is none."""
    return int(float(value)) if value else None


def _between(start_ms: int | None, end_ms: int | None) -> float | None:
    return None if start_ms is None or end_ms is None else (end_ms - start_ms) / 1000


def _seconds(ms: Any) -> float | None:
    return ms / 1000 if isinstance(ms, int | float) else None


def _report(written: str) -> dict[str, Any]:
    """What the worker measured (`fq_timing`); empty where it wrote nothing that can be read."""
    try:
        report = json.loads(written) if written else {}
    except ValueError:
        return {}
    return report if isinstance(report, dict) and isinstance(report.get("startup_ms", {}), dict) else {}


# -- its output --------------------------------------------------------------------------------------


def job_logs(broker: Broker, job_id: str, follow: bool = False) -> Iterator[str]:
    """The lines a job printed and that are still kept; with `follow`, those it prints until it ends.

    Raises: JobNotFound, BrokerError.
    """
    if not follow:
        yield from _lines(_chunks(broker, job_id, follow=False))
        return
    # A connection of its own: a blocking read would make everybody else on this one wait.
    own = Broker(broker.url, prefix=broker.keys.prefix, patience_s=broker.patience_s, scripts=broker.library)
    try:
        yield from _lines(_chunks(own, job_id, follow=True))
    finally:
        own.close()


def _chunks(broker: Broker, job_id: str, *, follow: bool) -> Iterator[bytes]:
    stream, key = broker.keys.of("logs", job_id), broker.keys.of("job", job_id)
    last, known = b"0-0", False
    while True:
        state = text(broker.execute("HGET", key, "fq_state"))
        ended = not state or JobState(state) in TERMINAL
        block: Sequence[str | int] = () if ended or not follow else ("BLOCK", _LOG_BLOCK_MS)
        reply = broker.execute("XREAD", "COUNT", _LOG_PAGE, *block, "STREAMS", stream, last)
        entries = reply[0][1] if reply else []
        known = known or bool(state) or bool(entries)
        if not known:
            _state({}, job_id)
        for entry_id, fields in entries:
            last = entry_id
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            yield pairs.get(b"text", b"")
        if not entries and (ended or not follow):
            return


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Whole lines out of raw pieces of output, which may end within a line or a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from lines
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = ""
    if rest := rest + decoder.decode(b"", final=True):
        yield rest
