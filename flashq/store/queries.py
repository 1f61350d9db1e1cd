"""What people ask the broker about one job: where its time went, and what it printed. Reads only.

The listings are next door: `queries_jobs`, `queries_fleet`. None of the three walks the key space: every
question starts from a key that is known and reads a bounded number of others. What is unknown is None, never
0; a broker that cannot be reached is an error, never an empty answer.
"""

from __future__ import annotations

import codecs
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from flashq.errors import BrokerRefused
from flashq.model.job_id import endpoint_of, kept_s, made_ms, missing
from flashq.model.lifecycle import TERMINAL, WAITING, JobState
from flashq.store.broker import Broker
from flashq.store.command import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flashq.errors import JobNotFound, ResultExpired

T = TypeVar("T")
_LOG_PAGE = 200  # entries of a log read at once
_LOG_BLOCK_MS = 500  # how long a follower waits for output before it looks whether the job has ended
_LONGEST_LINE = 64 * 1024


# -- reading fields ----------------------------------------------------------------------------------


def read_hash(broker: Broker, key: str, names: tuple[str, ...]) -> dict[str, str]:
    """Some fields of one hash as text; '' for those it lacks."""
    return _fields(names, broker.execute("HMGET", key, *names))


def read_hashes(broker: Broker, keys: Sequence[str], names: tuple[str, ...]) -> list[dict[str, str]]:
    """Some fields of several hashes, in one round trip; what is no hash has none of them."""
    try:
        replies = broker.execute_all([("HMGET", key, *names) for key in keys])
    except BrokerRefused:  # one of them, perhaps: the others are as good as ever
        return [_read_or_empty(broker, key, names) for key in keys]
    return [_fields(names, reply) for reply in replies]


def _read_or_empty(broker: Broker, key: str, names: tuple[str, ...]) -> dict[str, str]:
    try:
        return read_hash(broker, key, names)
    except BrokerRefused:
        return dict.fromkeys(names, "")


def _fields(names: tuple[str, ...], reply: list[bytes | None]) -> dict[str, str]:
    return {name: text(value) for name, value in zip(names, reply, strict=True)}


# Anybody who can write to the broker may have written what is read here: what is no number, no time, no JSON object
# is as if it were not there.


def decimal(value: int | float | str | None) -> float | None:
    """A number as a hash holds it; None where there is none."""
    try:
        number = float(value or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def whole(value: str | None) -> int | None:
    """The same as an integer."""
    number = decimal(value)
    return None if number is None else int(number)


def moment(ms: int | float | str | None) -> datetime | None:
    """Milliseconds since 1970 as a UTC time; None where there is none (None, '' or 0)."""
    number = decimal(ms)
    try:
        return datetime.fromtimestamp(number / 1000, UTC) if number else None
    except (ValueError, OverflowError, OSError):  # before or after all times
        return None


def written(value: str | None, kind: type[T]) -> T:
    """What a field says in JSON, as a dict or a list; an empty one where it does not."""
    try:
        found = json.loads(value or "null", parse_constant=lambda _: None)  # NaN is not JSON
    except (ValueError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


def state_of(fields: dict[str, str], job_id: str) -> JobState:
    """`fq_state`. Raises JobNotFound where this is no job of ours."""
    try:
        return JobState(fields.get("fq_state", ""))
    except ValueError:
        raise missing(job_id, None, None) from None


def absent(broker: Broker, job_id: str) -> JobNotFound | ResultExpired:
    """Why the broker has no job of this id, as far as its id and its endpoint's record tell."""
    made, endpoint = made_ms(job_id), endpoint_of(job_id)
    spec = (
        text(broker.execute("HGET", broker.keys.of("endpoint", endpoint), "spec")) if made is not None else ""
    )
    if made is None or not spec:
        return missing(job_id, None, None)
    seconds, micros = broker.execute("TIME")
    return missing(job_id, kept_s(spec), int(seconds) + int(micros) / 1e6 - made / 1000)


def cancel_requested(broker: Broker, job_id: str) -> bool:
    """Whether a job's caller wants it stopped."""
    return bool(broker.execute("HGET", broker.keys.of("job", job_id), "fq_cancel") == b"1")


def delivered(fields: dict[str, str], state: JobState) -> tuple[int | None, int | None]:
    """When the present delivery of a job was claimed and when it began (ms).

    A job that went back to its queue keeps the times of its earlier delivery; they say nothing of this one.
    """
    claimed = None if state in WAITING else whole(fields.get("fq_claimed"))
    began = whole(fields.get("fq_began"))
    if claimed is None or began is None or began < claimed:
        return claimed, None
    return claimed, began


# -- where its time went -----------------------------------------------------------------------------

_TIMING = ("fq_state", "fq_enqueued", "fq_claimed", "fq_began", "fq_ended", "fq_attempts", "fq_timing")


def job_timing(broker: Broker, job_id: str) -> dict[str, Any]:
    """Where a job's time went: the fields of `flashq.job.Timing` (seconds; None: not reached, or not known).

    Raises: JobNotFound, ResultExpired, BrokerError.
    """
    fields = read_hash(broker, broker.keys.of("job", job_id), _TIMING)
    if not fields["fq_state"]:
        raise absent(broker, job_id)
    return timing_of(fields, job_id)


def timing_of(fields: dict[str, str], job_id: str) -> dict[str, Any]:
    """`job_timing` from a job's hash. Raises JobNotFound where it is no job of ours."""
    state = state_of(fields, job_id)
    enqueued, ended = whole(fields.get("fq_enqueued")), whole(fields.get("fq_ended"))
    claimed, began = delivered(fields, state)
    report = written(fields.get("fq_timing"), dict) if state in TERMINAL else {}  # what the worker measured
    startup = report.get("startup_ms")
    parts = startup.items() if isinstance(startup, dict) else ()
    return {
        "queued_s": _between(enqueued, claimed),
        "claimed_s": _between(claimed, began),
        "execution_s": _seconds(report.get("execution_ms")),
        "total_s": _between(enqueued, ended),
        "attempts": whole(fields.get("fq_attempts")) or 0,
        "startup": {part: s for part, spent in parts if (s := _seconds(spent)) is not None},
    }


def _between(start_ms: int | None, end_ms: int | None) -> float | None:
    return None if start_ms is None or end_ms is None else (end_ms - start_ms) / 1000


def _seconds(ms: Any) -> float | None:
    number = decimal(ms) if isinstance(ms, int | float) else None
    return None if number is None else number / 1000


# -- its output --------------------------------------------------------------------------------------


def job_progress(broker: Broker, job_id: str) -> Any:
    """What a job last told of how far it is; None: nothing. Raises: JobNotFound, ResultExpired, BrokerError."""
    fields = read_hash(broker, broker.keys.of("job", job_id), ("fq_state", "fq_progress"))
    if not fields["fq_state"]:
        raise absent(broker, job_id)
    return said(fields["fq_progress"])


def said(progress: str) -> Any:
    """Progress as a job's hash holds it: user code wrote it."""
    try:
        return json.loads(progress) if progress else None
    except (ValueError, RecursionError):
        return None


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
        ended = not state or state in TERMINAL
        block: Sequence[str | int] = () if ended or not follow else ("BLOCK", _LOG_BLOCK_MS)
        reply = broker.execute("XREAD", "COUNT", _LOG_PAGE, *block, "STREAMS", stream, last)
        entries = reply[0][1] if reply else []
        known = known or bool(state) or bool(entries)
        if not known:
            raise absent(broker, job_id)
        for entry_id, fields in entries:
            last = entry_id
            yield _text_of(fields)
        if not entries and (ended or not follow):
            return


def last_lines(broker: Broker, job_id: str, most: int) -> list[str]:
    """The last lines a job printed, at most so many."""
    entries = broker.execute("XREVRANGE", broker.keys.of("logs", job_id), "+", "-", "COUNT", _LOG_PAGE)
    lines = list(_lines(_text_of(fields) for _, fields in reversed(entries)))
    return lines[-most:]


def _text_of(fields: list[bytes]) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"text", b"")


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
